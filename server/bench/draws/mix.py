"""What the calls of a load are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from .popularity import Popularity, picks, weighted
from .prompts import Prompt


@dataclass
class Work:
    """What there is to ask, without end."""

    adapters: Iterator[str]
    prompts: Iterator[Prompt]


@dataclass(frozen=True)
class Mix:
    """Whom the calls name, and what they ask."""

    names: Sequence[str]
    prompts: Sequence[Prompt]
    popularity: Popularity = Popularity.UNIFORM
    exponent: float = 1.0
    weights: Sequence[float] | None = None
    """Of the names, instead of `popularity`."""

    def work(self, seed: str) -> Work:
        rng = random.Random(f"adapters {seed}")
        if self.weights is not None:
            adapters = weighted(self.names, self.weights, rng)
        else:
            adapters = picks(self.popularity, self.names, self.exponent, rng)
        return Work(adapters, cycle(self.prompts))
