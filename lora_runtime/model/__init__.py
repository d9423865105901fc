"""The frozen base: what it is, how it is loaded, and where steps and adapters reach into it.

May import: config, errors, kernels, kernels.cpu, kv_cache, modules.
"""
