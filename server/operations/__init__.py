"""What callers ask of the engine, the same for every front: requests submitted, adapters changed,
reports.

May import: auth, config, declared, lifecycle, locations, logs, lora_runtime, threads, tracing.
"""
