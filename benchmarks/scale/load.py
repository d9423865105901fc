"""Requests of a simulated load."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What is sent."""

    weights: Sequence[float]
    """Of the adapters, the most popular first."""
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
