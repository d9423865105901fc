"""Times at which the calls of an open loop are due."""

from __future__ import annotations

import random
from collections.abc import Iterator
from enum import StrEnum


class Arrivals(StrEnum):
    """Kinds of arrivals, by the spread of the gaps between them."""

    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"


def arrival_times(kind: Arrivals, rate: float, cv: float, rng: random.Random) -> Iterator[float]:
    """Seconds from the start, without end, `rate` a second on average.

    `cv` is the coefficient of variation of gamma's gaps: 1 is Poisson, more comes in bursts.
    """
    now = 0.0
    while True:
        yield now
        now += _gap(kind, cv, rng) / rate


def _gap(kind: Arrivals, cv: float, rng: random.Random) -> float:
    """Draw a gap with mean 1."""
    match kind:
        case Arrivals.CONSTANT:
            return 1.0
        case Arrivals.POISSON:
            return rng.expovariate(1.0)
        case Arrivals.GAMMA:
            shape = 1 / cv**2
            return rng.gammavariate(shape, 1 / shape)
