"""Kernels compiled without a GPU: what they take of a multiprocessor, and Triton's cache filled before it is needed."""
