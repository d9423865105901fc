"""Prometheus metrics, fed by calls and by the engine's events.

May import: digest, gauges, grpc, lora_runtime, metrics_port, signals.
"""

from .metrics import Metrics

__all__ = ["Metrics"]
