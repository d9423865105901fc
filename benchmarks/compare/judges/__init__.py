"""`loramux bench` beside ghz and k6 on the same load: `python -m benchmarks.compare.judges`.

May import: common, compare.peers.
"""
