"""What is full, and what steps take."""

from __future__ import annotations

from panels import Panel
from queries import mean, now, quantiles, rate, ratio, select

PARTS = 'part!~"total|used"'
"""Those that are set aside."""

CAPACITY = [
    Panel(
        "KV cache in use",
        "percentunit",
        (
            (
                "{{pod}}",
                ratio(now("loramux_kv_blocks_used", "pod"), now("loramux_kv_blocks", "pod")),
            ),
        ),
        most=1,
        about="What live sequences hold. Prefixes that are kept for the next request do not count.",
    ),
    Panel(
        "Prompt tokens from the prefix cache",
        "percentunit",
        (
            (
                "found",
                ratio(
                    rate("loramux_prefix_cache_hit_tokens_total"),
                    rate("loramux_prompt_tokens_total"),
                ),
            ),
        ),
        most=1,
    ),
    Panel(
        "Preempted sequences",
        "ops",
        (("{{pod}}", f"sum by (pod) (rate({select('loramux_preemptions')}[$__rate_interval]))"),),
        about="They gave their blocks back and are computed again.",
    ),
    Panel("Time of a step", "s", quantiles("loramux_step_seconds")),
    Panel(
        "Tokens in a step",
        "short",
        (("{{pod}}", mean("loramux_step_tokens", "pod")),),
        about="The mean, of prompts and answers.",
    ),
    Panel(
        "Batch, of its limit",
        "percentunit",
        (
            (
                "{{pod}}",
                ratio(
                    now("loramux_running_sequences", "pod"),
                    now("loramux_max_running_sequences", "pod"),
                ),
            ),
        ),
        most=1,
        about="Sequences that run, of --max-running.",
    ),
    Panel("CPU cores in use", "short", (("{{pod}}", rate("process_cpu_seconds_total", "pod")),)),
    Panel(
        "Memory of the process",
        "bytes",
        (("{{pod}}", now("process_resident_memory_bytes", "pod")),),
        about="Host memory. Of a GPU's see the plan.",
    ),
    Panel(
        "Plan of the device's memory",
        "bytes",
        (
            (
                "{{part}}",
                f"max by (part) ({select('loramux_device_memory_bytes', PARTS)} > 0)",
            ),
        ),
        kind="bargauge",
        about="Of one pod: what was set aside at start.",
    ),
    Panel(
        "Bytes of adapters in slots",
        "bytes",
        (("{{pod}}", now("loramux_resident_adapter_bytes", "pod")),),
    ),
    Panel(
        "Bytes of adapters in host memory alone",
        "bytes",
        (
            ("{{pod}}", now("loramux_host_adapter_bytes", "pod")),
            ("limit", f"max({select('loramux_max_host_adapter_bytes')})"),
        ),
    ),
    Panel(
        "Open calls and connections",
        "short",
        (
            ("calls over gRPC", now("loramux_open_calls")),
            ("calls over HTTP", now("loramux_open_http_requests")),
            ("connections over HTTP", now("loramux_open_http_connections")),
        ),
    ),
]
