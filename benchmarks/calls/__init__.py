"""Calls a second of one server, and the seconds of a core that each takes: `python -m benchmarks.calls`.

May import: common, compare.peers, fleet.
"""
