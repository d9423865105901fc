"""The routers' page: the text that several routers scrape many times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from lora_runtime import ResidentAdapter

from .router import LOADED_LABELS, RouterSignals, listed, loaded_labels

_REST_S = 1.0
"""Seconds for which that stays as it is by which no router decides."""


class RouterPage:
    """Page of the signals, in Prometheus' text format; for any thread, without a lock.

    What has not changed since the last scrape is not made anew, and of what changes with every step
    the values alone are. `rest`: what is on the page besides.
    """

    def __init__(self, signals: RouterSignals, rest: Callable[[], Iterable[Metric]]) -> None:
        self._signals, self._rest = signals, rest
        self._load = [_head(family) for family in signals.load(signals.engine.occupancy())]
        self._cache = _text([signals.cache()])
        self._listed, self._info, self._residency, self._rest_text = (_Kept() for _ in range(4))

    def text(self) -> bytes:
        """Make the page."""
        engine = self._signals.engine
        now, residents = engine.occupancy(), engine.residents()
        parts = [
            *map(_line, self._load, self._signals.load_values(now)),
            self._cache,
            *(self._of_adapters(residents, now.awaited) if self._signals.slots else ()),
            self._rest_text.get(time.monotonic() // _REST_S, lambda: _text(self._rest())),
        ]
        return "".join(parts).encode()

    def _of_adapters(
        self, residents: Sequence[ResidentAdapter], awaited: tuple[str, ...]
    ) -> tuple[str, str]:
        resident = self._listed.get(residents, lambda: listed(residents))
        info = self._info.get(
            (residents, awaited),
            lambda: _head(self._signals.requests_info(residents, resident, awaited)),
        )
        residency = self._residency.get(residents, lambda: self._residency_of(residents))
        return _line(info, time.time()), residency

    def _residency_of(self, residents: Sequence[ResidentAdapter]) -> str:
        loaded = self._signals.loaded(())
        # As `generate_latest` has it, which takes twenty times as long: there may be thousands, and
        # one that changes makes all of them anew.
        line = _template(loaded, LOADED_LABELS)
        lines = [line % (escaped(name), *rest) for name, *rest in loaded_labels(residents)]
        return _text([loaded]) + "".join(lines) + _text(self._signals.counts(residents))


class _Kept:
    """Text of the last key."""

    def __init__(self) -> None:
        self._last: tuple[Any, str] = (object(), "")

    def get(self, key: Any, make: Callable[[], str]) -> str:
        last, text = self._last
        if last is not key and last != key:
            text = make()
            self._last = key, text
        return text


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _text(families: Iterable[Metric]) -> str:
    return generate_latest(_Families(families)).decode()


def _head(family: Metric) -> str:
    """Text of a family of one sample, up to its value."""
    return _text([family]).rpartition(" ")[0]


def _line(head: str, value: float) -> str:
    return f"{head} {floatToGoString(value)}\n"


def _template(family: Metric, labels: Sequence[str]) -> str:
    """Give the line of a gauge of 1, with a place for each label's value."""
    inner = ",".join([f'{label}="%s"' for label in labels])
    return f"{family.name}{{{inner}}} 1.0\n"


def escaped(value: str) -> str:
    """Write a label's value as the text format has it."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
