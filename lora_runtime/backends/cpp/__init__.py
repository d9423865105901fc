"""The whole step as one C++ program, on x86-64 CPUs.

May import: adapters, backends, backends.torch, config, errors, kernels, kernels.cpu, model,
scheduling.
"""
