"""Backends: the ways to compute a step, a folder each.

May import: adapters, adapters.peft, backends.cpp, backends.tensor_parallel, backends.torch,
backends.triton, config, errors, kernels, model, modules, scheduling.
"""
