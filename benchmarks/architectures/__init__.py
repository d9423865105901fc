"""Every causal architecture of transformers, tiny and random, served and held to PEFT:
`python -m benchmarks.architectures` writes the table of docs/guide/architectures.md.

May import: common, lora_runtime.
"""
