"""How many calls, how fast, how they end."""

from __future__ import annotations

from panels import Panel
from queries import now, or_zero, quantile, quantiles, rate, ratio

CALLS = 'method=~"loramux[.].*"'
"""Without health checks and reflection."""
FAULTS = f'{CALLS},code=~"INTERNAL|UNKNOWN|DATA_LOSS"'
CODES = {
    "OK": "green",
    "CANCELLED": "blue",
    "DEADLINE_EXCEEDED": "purple",
    "NOT_FOUND": "light-yellow",
    "INVALID_ARGUMENT": "yellow",
    "RESOURCE_EXHAUSTED": "orange",
    "UNAVAILABLE": "light-red",
    "INTERNAL": "red",
    "UNKNOWN": "dark-red",
}
STATUSES = {
    "200": "green",
    "400": "yellow",
    "404": "light-yellow",
    "429": "orange",
    "499": "blue",
    "500": "red",
    "503": "light-red",
}
OUTCOMES = {"ok": "green", "cancelled": "blue", "timeout": "orange", "error": "red"}

OVERVIEW = [
    Panel(
        "Pods ready",
        "short",
        (("ready", now("loramux_ready")),),
        kind="stat",
        about="Pods that take calls now.",
    ),
    Panel(
        "Calls per second",
        "reqps",
        (
            (
                "calls",
                f"{or_zero(rate('loramux_rpcs_total', where=CALLS))}"
                f" + {or_zero(rate('loramux_http_requests_total'))}",
            ),
        ),
        kind="stat",
        about="Over gRPC and HTTP, of loramux's own services.",
    ),
    Panel(
        "Failed by the server",
        "percentunit",
        (
            (
                "failed",
                ratio(
                    or_zero(rate("loramux_rpcs_total", where=FAULTS)),
                    rate("loramux_rpcs_total", where=CALLS),
                ),
            ),
        ),
        kind="stat",
        thresholds=(0.001, 0.01),
        about="Share of the calls over gRPC that ended with INTERNAL, UNKNOWN or DATA_LOSS.",
    ),
    Panel(
        "First token, p99",
        "s",
        (("p99", quantile(0.99, "loramux_time_to_first_token_seconds")),),
        kind="stat",
    ),
    Panel(
        "Tokens per second",
        "short",
        (("tokens", rate("loramux_generated_tokens_total")),),
        kind="stat",
        about="Tokens of answers, counted as they are sampled.",
    ),
    Panel("Waiting", "short", (("waiting", now("loramux_waiting_sequences")),), kind="stat"),
    Panel(
        "Calls over gRPC by status",
        "reqps",
        (("{{code}}", rate("loramux_rpcs_total", "code", CALLS)),),
        stacked=True,
        colours=CODES,
        about="They count when they end, streams too.",
    ),
    Panel(
        "Calls over HTTP by status",
        "reqps",
        (("{{status}}", rate("loramux_http_requests_total", "status")),),
        stacked=True,
        colours=STATUSES,
    ),
    Panel(
        "Running and waiting",
        "short",
        (
            ("running", now("loramux_running_sequences")),
            ("waiting", now("loramux_waiting_sequences")),
        ),
        about="Sequences in the batches and in the queues of all pods.",
    ),
    Panel(
        "Time to first token",
        "s",
        quantiles("loramux_time_to_first_token_seconds"),
        about="From a request's arrival.",
    ),
    Panel("Time between tokens", "s", quantiles("loramux_inter_token_latency_seconds")),
    Panel(
        "Time in the queue",
        "s",
        quantiles("loramux_queue_seconds"),
        about="From arrival to the first step. It is in the time to the first token.",
    ),
    Panel(
        "Tokens per second",
        "short",
        (
            ("answers", rate("loramux_generated_tokens_total")),
            ("prompts", rate("loramux_prefill_tokens_total")),
        ),
        about="As steps end. Prompts without what the prefix cache had.",
    ),
    Panel("Whole requests", "s", quantiles("loramux_request_seconds")),
    Panel(
        "Requests by outcome",
        "reqps",
        (("{{outcome}}", rate("loramux_requests_total", "outcome")),),
        stacked=True,
        colours=OUTCOMES,
        about="Cancelled and timeout are the callers'.",
    ),
]
