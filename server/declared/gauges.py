"""Metrics of declared adapters."""

from __future__ import annotations

from collections import Counter

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .adapters import DeclaredAdapters
from .types import DeclaredState


class DeclaredGauges(Collector):
    """Gauges: how many are in which state, and whether all of them serve."""

    def __init__(self, declared: DeclaredAdapters) -> None:
        self._declared = declared

    def collect(self) -> list[GaugeMetricFamily]:
        counts = Counter(status.state for status in self._declared.status() if status.name)
        states = GaugeMetricFamily(
            "loramux_declared_adapters", "Declared adapters by state.", labels=["state"]
        )
        for state in DeclaredState:
            states.add_metric([state.value], counts[state])
        ready = GaugeMetricFamily(
            "loramux_declared_adapters_ready",
            "1 while every declared adapter has a version that serves.",
            value=float(self._declared.ready),
        )
        return [states, ready]
