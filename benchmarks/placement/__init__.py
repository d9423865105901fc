"""What plans and tables of many adapters cost: `python -m benchmarks.placement`.

May import: common, compare.peers, fleet, server.placement.
"""
