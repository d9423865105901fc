"""The frozen base: its files, its modules, and the hooks through which steps reach it.

May import: config, errors, kernels, kernels.cpu, kv_cache, modules, permissions.
"""
