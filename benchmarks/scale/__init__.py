"""Fleets of any size, simulated with the project's own scheduler, slots and placement: `python -m
benchmarks.scale`.

May import: common, fleet, lora_runtime, lora_runtime.adapters,
lora_runtime.adapters.store, lora_runtime.api, lora_runtime.requests, lora_runtime.scheduling,
server.bench, server.bench.draws, server.placement.
"""
