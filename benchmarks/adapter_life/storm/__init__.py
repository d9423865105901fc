"""Reloads, evictions and aborts at once, every answer checked: `python -m
benchmarks.adapter_life.storm`.

May import: common, lora_runtime.
"""
