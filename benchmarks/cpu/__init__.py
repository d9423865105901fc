"""The CPU path by itself: its kernels beside the machine's ceilings, and what its number formats
cost in accuracy.

May import: common, lora_runtime, lora_runtime.kernels, lora_runtime.kernels.cpu,
lora_runtime.scheduling.
"""
