"""What several benchmarks share: workloads, places of files, the machine, result files and tables
of pages.

May import: lora_runtime.
"""
