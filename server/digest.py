"""What an engine has registered as one number, by which pods are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lora_runtime import Engine, EngineObserver, Registration

_BYTES = 6
"""What a float holds exactly."""


class AdaptersDigest(Collector, EngineObserver):
    """Gauge of which versions an engine's ids stand for; made anew at the scrape after a change."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changes = 0
        self._made = (-1, 0)
        """How many changes there had been, and the digest then."""

    def on_registrations_changed(self) -> None:
        self._changes += 1

    def collect(self) -> Iterable[GaugeMetricFamily]:
        changes, (made_after, digest) = self._changes, self._made
        if made_after != changes:
            digest = _digest(self._engine.registrations())
            self._made = changes, digest
        yield GaugeMetricFamily(
            "loramux_adapters_digest",
            "Digest of the ids with their versions and canaries: equal where the same is served.",
            value=digest,
        )


def _digest(registrations: Iterable[Registration]) -> int:
    """Digest of what serves; older versions and policies change no answer."""
    found = hashlib.sha256()
    for one in registrations:
        canary = one.canary.version if one.canary else ""
        served = (one.adapter_id, one.versions[0].version, canary, one.canary_weight)
        found.update(repr(served).encode())
    return int.from_bytes(found.digest()[:_BYTES])
