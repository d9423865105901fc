"""Triton backend: planned kernels, fused projections, adapters in slots, CUDA graphs.

May import: adapters, backends, backends.torch, config, errors, kernels, kv_cache, model, modules,
scheduling.
"""
