"""One module per gRPC service; each maps messages to the engine's public API and back.

May import: auth, declared, errors, locations, lora_runtime, readiness, request_ids.
"""
