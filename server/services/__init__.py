"""The gRPC front: a module per service, which maps messages to the engine's public API and back.

May import: auth, config, declared, errors, grpc, lifecycle, lora_runtime, metrics, operations,
request_ids, threads, tls, transport.
"""
