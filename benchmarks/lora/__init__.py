"""Experiments on LoRA itself: `python -m benchmarks.lora`; what they gave is in docs/lora.md."""
