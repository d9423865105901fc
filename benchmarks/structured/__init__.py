"""Structured answers: `python -m benchmarks.structured`.

May import: common, lora_runtime.
"""
