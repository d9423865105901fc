"""Kernels compiled without a GPU: what they take of a multiprocessor, and Triton's cache filled
before it is needed.

May import: common, gpu, lora_runtime.kernels, lora_runtime.kernels.triton, lora_runtime.modules.
"""
