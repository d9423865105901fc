"""What open pages cost a server: `python -m benchmarks.page`.

May import: common, compare.
"""
