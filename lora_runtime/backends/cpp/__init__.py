"""C++ backend: the whole step as one C++ program.

May import: adapters, backends, backends.torch, config, errors, kernels, kernels.cpu, model,
scheduling.
"""
