"""How a step is computed: one interface, a folder for each way, and the list that chooses.

May import: adapters, adapters.peft, backends.cpp, backends.tensor_parallel, backends.torch,
backends.triton, config, errors, kernels, model, modules, scheduling.
"""
