"""Which adapter each call names."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import accumulate, cycle
from pathlib import Path

BASE = "base"
"""How a file writes the base model, whose id is empty."""


class Popularity(StrEnum):
    """Ways to draw from the adapters."""

    UNIFORM = "uniform"
    ZIPF = "zipf"
    ROUND_ROBIN = "round-robin"


def picks(
    kind: Popularity, names: Sequence[str], exponent: float, rng: random.Random
) -> Iterator[str]:
    """Adapter ids without end. Zipf's most popular one is the first."""
    if kind is Popularity.ROUND_ROBIN:
        return cycle(names)
    weights = [rank**-exponent for rank in range(1, len(names) + 1)]
    return weighted(names, weights if kind is Popularity.ZIPF else [1.0] * len(names), rng)


def weighted(names: Sequence[str], weights: Sequence[float], rng: random.Random) -> Iterator[str]:
    sums = list(accumulate(weights))
    while True:
        yield rng.choices(names, cum_weights=sums)[0]


def read_weights(file: Path) -> dict[str, float]:
    """Read lines of `ID WEIGHT`; what follows # is a comment. Raises ValueError, OSError."""
    found: dict[str, float] = {}
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name = "" if words[0] == BASE else words[0]
        if name in found:
            raise ValueError(f"line {number} names {words[0]!r} again")
        found[name] = _weight(words, number)
    if not sum(found.values()):
        raise ValueError("there is no weight over 0")
    return found


def _weight(words: list[str], number: int) -> float:
    try:
        _, text = words
        weight = float(text)
    except ValueError:
        raise ValueError(f"line {number} must be an id and a weight") from None
    if not 0 <= weight < float("inf"):
        raise ValueError(f"line {number}: a weight is a number from 0 on")
    return weight
