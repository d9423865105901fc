"""One module per gRPC service; each maps messages to the engine's public API and back.

May import: adapter_changes, answer_size, auth, declared, errors, lifecycle, limits, lora_runtime,
request_ids, submission, threads.
"""
