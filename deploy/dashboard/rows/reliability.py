"""Who is ready, what is refused, what is amiss."""

from __future__ import annotations

from panels import Panel
from queries import now, rate, ratio, select

RELIABILITY = [
    Panel(
        "Ready",
        "short",
        (("{{pod}}", now("loramux_ready", "pod")),),
        kind="state-timeline",
        about="1: the pod takes calls.",
    ),
    Panel(
        "Why not ready",
        "short",
        (("{{pod}}: {{reason}}", f"{now('loramux_not_ready', 'pod, reason')} > 0"),),
        about="Of adapters how many. draining: the pod is being stopped and finishes its calls.",
    ),
    Panel(
        "Age of the process",
        "s",
        (("{{pod}}", f"time() - max by (pod) ({select('process_start_time_seconds')})"),),
        about="It begins anew with a restart.",
    ),
    Panel(
        "Rejected requests",
        "reqps",
        (("{{reason}}", rate("loramux_requests_rejected_total", "reason")),),
        stacked=True,
        about="Refused before they were queued.",
    ),
    Panel(
        "Refused tokens",
        "reqps",
        (("{{reason}}", rate("loramux_calls_refused_total", "reason")),),
        stacked=True,
        about="Calls without a valid token, or beyond its rights.",
    ),
    Panel(
        "Queue, of its limit",
        "percentunit",
        (
            (
                "{{pod}}",
                ratio(
                    now("loramux_waiting_sequences", "pod"),
                    now("loramux_max_waiting_sequences", "pod"),
                ),
            ),
        ),
        most=1,
        about="At 100 % requests are refused.",
    ),
    Panel(
        "Declared adapters by state",
        "short",
        (("{{state}}", now("loramux_declared_adapters", "state")),),
        stacked=True,
        colours={
            "ready": "green",
            "failed": "red",
            "loading": "blue",
            "pending": "yellow",
            "removing": "orange",
        },
        about="Of all pods together.",
    ),
    Panel(
        "What is amiss",
        "short",
        (
            ("engines that failed", now("loramux_engine_failed")),
            ("adapters out of service", now("loramux_out_of_service_adapters")),
            (
                "sets of adapters that pods serve, beyond one",
                f'count(count_values("digest", {select("loramux_adapters_digest")})) - 1',
            ),
        ),
        about="All 0 on a good day.",
    ),
    Panel(
        "Dropped log lines",
        "ops",
        (("{{pod}}", rate("loramux_log_lines_dropped_total", "pod")),),
    ),
]
