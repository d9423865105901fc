"""One module per gRPC service; each maps messages to the engine's public API and back.

May import: auth, declared, errors, grpc, lifecycle, lora_runtime, operations, request_ids, threads.
"""
