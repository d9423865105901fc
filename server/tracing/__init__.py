"""Traces: spans of calls and of what the engine does for them, sent to a collector by OTLP.

`start` says whether there are any; only what it imports then imports OpenTelemetry.

May import: errors, logs, lora_runtime.
"""
