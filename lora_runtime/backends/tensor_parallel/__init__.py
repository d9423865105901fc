"""Tensor-parallel backend: one base over several processes.

May import: adapters, backends, backends.torch, config, errors, kernels, model, modules,
scheduling.
"""
