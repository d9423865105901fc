"""One module per gRPC service; each maps messages to the engine's public API and back.

May import: answer_size, auth, declared, errors, lifecycle, locations, lora_runtime, request_ids,
submission, threads.
"""
