"""Experiments on LoRA itself: `python -m benchmarks.lora`; what they gave is in
docs/results/lora.md.

May import: common, lora_runtime, lora_runtime.model, lora_runtime.training.
"""
