"""The gRPC front: what every call goes through, message limits, reflection; see also services.

May import: auth, config, errors, lifecycle, lora_runtime, metrics, request_ids, services, tls,
transport.
"""
