"""loramux's server: services, configuration, command line, metrics and health.

May import: auth, cli, declared, grpc, http, http.bodies, http.connections, lifecycle, logs,
lora_runtime, metrics, operations, services, tracing.
"""

import os

# gRPC's core writes lines of its own to standard error; it reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
