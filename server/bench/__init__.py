"""Load that is sent to a running server, and what comes of it: the inside of `loramux bench`.

May import: bench.draws.
"""
