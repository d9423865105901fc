"""Bodies of requests: bytes within bounds, then JSON, and what nobody knows of in it.

May import: auth, http, threads.
"""
