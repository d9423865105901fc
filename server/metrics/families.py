"""Families of metrics in a registry, under loramux's names."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram


class Families:
    """Counters and histograms that are made; `by_name` has them without their prefix."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.by_name: dict[str, Counter | Histogram] = {}

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(f"loramux_{name}", text, labels, registry=self._registry)
        self.by_name[name] = counter
        return counter

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        histogram = Histogram(f"loramux_{name}", text, buckets=buckets, registry=self._registry)
        self.by_name[name] = histogram
        return histogram
