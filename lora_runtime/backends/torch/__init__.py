"""Torch backend: transformers' forward with torch's kernels; it runs everywhere.

May import: adapters, backends, config, errors, kernels, kv_cache, model, modules, scheduling.
"""
