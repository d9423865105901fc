"""Which adapters are asked for, and whether they are in slots."""

from __future__ import annotations

from panels import Panel
from queries import ADAPTER, mean, now, quantiles, rate, ratio, select, top

REQUESTS = "loramux_requests_total"
TOKENS = "loramux_completion_tokens_total"


def of_most(query: str, counter: str = REQUESTS) -> str:
    """Series of the adapters that are asked for most."""
    return top(query, counter, "adapter", ADAPTER)


ADAPTERS = [
    Panel(
        "Requests by adapter",
        "reqps",
        (("{{adapter}}", of_most(rate(REQUESTS, "adapter", ADAPTER))),),
        about="The ten with most. Those beyond --metrics-adapter-labels are one: other.",
    ),
    Panel(
        "Tokens per second by adapter",
        "short",
        (("{{adapter}}", of_most(rate(TOKENS, "adapter", ADAPTER), TOKENS)),),
        about="The ten with most tokens in answers, counted when requests end.",
    ),
    Panel(
        "First token by adapter, mean",
        "s",
        (
            (
                "{{adapter}}",
                of_most(mean("loramux_adapter_time_to_first_token_seconds", "adapter", ADAPTER)),
            ),
        ),
        about="Of the ten with most requests.",
    ),
    Panel(
        "Slots",
        "short",
        (("{{state}}", now("loramux_adapter_slots", "state")),),
        stacked=True,
        colours={"running": "green", "idle": "light-green", "free": "text"},
        about="Running: with sequences in the batch. Idle: with an adapter that nobody uses now.",
    ),
    Panel(
        "Requests that did not wait for their adapter",
        "percentunit",
        (
            (
                "at once",
                ratio(
                    rate("loramux_adapter_wait_seconds_bucket", where='le="0.0"'),
                    rate("loramux_adapter_wait_seconds_count"),
                ),
            ),
        ),
        most=1,
        about="It was in a slot, or came into one at once. Requests for the base do not count.",
    ),
    Panel(
        "Wait for an adapter",
        "s",
        quantiles("loramux_adapter_wait_seconds"),
        about="Of all requests for adapters, most of which wait for nothing.",
    ),
    Panel(
        "Loads and evictions",
        "ops",
        (
            ("loaded", rate("loramux_adapter_loads_total")),
            ("failed", rate("loramux_adapter_load_failures_total")),
            ("out: {{reason}}", rate("loramux_adapter_evictions_total", "reason")),
        ),
    ),
    Panel("Time of a load", "s", quantiles("loramux_adapter_load_seconds")),
    Panel(
        "Adapters",
        "short",
        (
            ("registered", f"max({select('loramux_registered_adapters')})"),
            ("in slots", now("loramux_resident_adapters")),
            ("in host memory alone", now("loramux_host_adapters")),
            ("being read", now("loramux_loading_adapters")),
        ),
        about="Registered: the most of any pod. The others: of all pods together.",
    ),
    Panel(
        "Versions in slots",
        "short",
        (
            (
                "",
                f"count by (adapter, version) ({select('loramux_adapter_version_info', ADAPTER)})",
            ),
        ),
        kind="table",
        width=16,
        about="In how many pods each is. A canary is a second version of its adapter.",
    ),
    Panel(
        "Adapters in a step",
        "short",
        (
            ("adapters", mean("loramux_step_distinct_adapters")),
            ("sequences", mean("loramux_step_sequences")),
        ),
        about="The means: how mixed the batches are.",
    ),
]
