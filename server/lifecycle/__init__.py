"""The server's life: whether it is ready and live, how clients are moved off, and its end in time.

May import: declared, grpc, logs, lora_runtime.
"""
