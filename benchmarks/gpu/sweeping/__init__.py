"""Tile sizes as they are and as they could be: which of them an H100 likes best, place by place.

May import: gpu, gpu.compiling, lora_runtime.kernels, lora_runtime.kernels.triton.
"""
