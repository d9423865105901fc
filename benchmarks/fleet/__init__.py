"""Three servers behind Envoy, by policy: loads, TTFT, balance: `python -m benchmarks.fleet`.

May import: common, compare.peers, server.bench, server.bench.draws.
"""
