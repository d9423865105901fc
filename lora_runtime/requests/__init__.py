"""Requests while they live: sequences, their text, the handle that the caller holds.

May import: adapters.store, api, errors, foreign, grammars, kv_cache.
"""
