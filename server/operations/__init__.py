"""What callers ask of the engine, the same for every front: requests submitted, adapters changed.

May import: auth, locations, logs, lora_runtime, threads, tracing.
"""
