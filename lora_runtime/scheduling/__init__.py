"""Scheduling: whose tokens run next, in which KV blocks, and the batch that they make.

May import: adapters, adapters.store, api, errors, kv_cache, requests.
"""
