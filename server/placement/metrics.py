"""Placement's own metrics, read at the scrape."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .placer import Placer


class PlacementMetrics(Collector):
    """What the placer has done, and how its plan is."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer

    def collect(self) -> Iterable[Metric]:
        counts, fleet, published = self._placer.counts, self._placer.fleet, self._placer.published
        placement = published.placement if published else {}
        several = sum(len(ways) > 1 for ways in placement.values())
        gauges = [
            ("replicas", "Replicas that answer, or did a moment ago.", len(fleet.pages)),
            ("adapters", "Adapters that are placed.", len(placement)),
            ("adapters_on_several", "Adapters that are placed on more than one replica.", several),
            (
                "most_over_mean",
                "Work of the replica that gets the most over the mean, as planned.",
                counts.most_over_mean,
            ),
        ]
        totals = [
            ("looks", "Looks at all replicas.", counts.looks),
            ("look_failures", "Looks at a replica, or in the DNS, that failed.", fleet.failures),
            ("changes", "Placements that differed from the one before.", counts.changes),
            (
                "moves",
                "Loads that placements caused, of adapters that were in another slot.",
                counts.moves,
            ),
        ]
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"loramux_placement_{name}", text, value=value)
        for name, text, value in totals:
            yield CounterMetricFamily(f"loramux_placement_{name}", text, value=value)
