"""A request while it lives: its sequences, its text, the handle that its caller holds.

May import: adapters.store, api, errors, kv_cache.
"""
