"""Planned Triton kernels, slots and CUDA graphs."""
