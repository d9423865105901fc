"""Triton kernels for CUDA; under Triton's interpreter (TRITON_INTERPRET=1) they run on a CPU too,
for tests.

May import: errors, kernels.
"""
