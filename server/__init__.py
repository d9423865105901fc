"""loramux's gRPC server: services, configuration, command line, metrics and health."""
