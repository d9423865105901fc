"""What scrapes cost running streams: `python -m benchmarks.scrapes`.

May import: common, compare, compare.peers.
"""
