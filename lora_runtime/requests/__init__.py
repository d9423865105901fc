"""Requests while they live: sequences, and the handle that the caller holds.

May import: adapters.store, api, errors, grammars, kv_cache, requests.messages, requests.text.
"""
