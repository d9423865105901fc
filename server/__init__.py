"""loramux's gRPC server: services, configuration, command line, metrics and health.

May import: auth, cli, declared, lora_runtime, services.
"""
