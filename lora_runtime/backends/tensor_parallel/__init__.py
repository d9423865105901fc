"""One base over several processes, each with a part of it.

May import: adapters, backends, backends.torch, config, errors, kernels, model, modules,
scheduling.
"""
