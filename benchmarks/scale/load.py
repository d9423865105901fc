"""Requests of a simulated load."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Popularity:
    """Adapters by their weights, the most popular first."""

    weights: Sequence[float]

    def draws(self, rng: random.Random) -> Iterator[int]:
        """Give adapters' numbers, without end."""
        sums = list(accumulate(self.weights))
        while True:
            yield bisect_left(sums, rng.random() * sums[-1])

    def shares(self) -> list[float]:
        whole = sum(self.weights)
        return [weight / whole for weight in self.weights]


@dataclass(frozen=True)
class Load:
    """What is sent."""

    popularity: Popularity
    requests: int
    """Those that are counted."""
    warmup: int
    """Requests of the load before, not counted."""
    prompt_tokens: int
    output_tokens: int
    rate: float | None = None
    """Calls a second, at times of their own; None: callers who wait."""
    concurrency: int = 1
    """Callers of a closed loop."""
    names: Sequence[str] = ()
    """Ids of the adapters, if they matter."""
    spread: bool = False
    """Whether lengths are drawn, with these as their means (exponential, one at least)."""

    def lengths(self, rng: random.Random) -> tuple[int, int]:
        """Draw a request's tokens: of its prompt, and of its answer."""
        if not self.spread:
            return self.prompt_tokens, self.output_tokens
        return tuple(  # type: ignore[return-value]
            1 + int(rng.expovariate(1 / mean)) for mean in (self.prompt_tokens, self.output_tokens)
        )
