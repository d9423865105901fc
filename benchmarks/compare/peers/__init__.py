"""One module per system that is compared, each a process: job file in, result file out.

May import: lora_runtime.
"""
