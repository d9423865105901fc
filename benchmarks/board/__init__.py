"""The chart's board with data: servers under a load, a real Prometheus, and pictures of each row.

May import: common, compare.peers.
"""
