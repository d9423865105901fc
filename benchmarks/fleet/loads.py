"""What is sent: whom calls name, how many at once or a second, and who counts as popular."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .bases import adapter_names

CLASSES = ("hot", "warm", "cold")
_HOT, _WARM = 0.5, 0.85
"""Adapters are hot until this part of the requests is theirs, then warm until that one."""
_OPEN_SHARE = 0.8
"""Rate of the open loops, in round robin's rate of the closed loop."""


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    return [rank**-exponent for rank in range(1, count + 1)]


PICKER_SPLIT = [0.12] * 5 + [0.06] * 5 + [0.02] * 5
"""Of the regression test that the endpoint picker's project has for LoRA."""


@dataclass(frozen=True)
class Cell:
    """One load on one fleet."""

    base: str
    popularity: str
    """zipf or split."""
    slots: int
    open_loop: bool
    calls: int
    warmup: int
    """Calls of the load that do not count, behind one of every adapter."""
    concurrency: int

    @property
    def name(self) -> str:
        loop = "open" if self.open_loop else "closed"
        return f"{self.base}-{self.popularity}-{self.slots}-{loop}"

    @property
    def fleet(self) -> tuple[str, int, str]:
        """Base and slots, and whom the servers' counters are about: each has servers of its own."""
        return self.base, self.slots, self.popularity

    @property
    def weights(self) -> dict[str, float]:
        """Each adapter's part of the requests, the most popular first."""
        names = adapter_names()
        shares = zipf(len(names)) if self.popularity == "zipf" else PICKER_SPLIT
        return {n: w / sum(shares) for n, w in zip(names, shares, strict=False)}

    def rate(self, closed_calls_per_s: float) -> float | None:
        """Calls a second of an open loop, of what round robin answers in a closed one."""
        return _OPEN_SHARE * closed_calls_per_s if self.open_loop else None


_TINY, _SMOLLM2 = (1000, 200, 24), (300, 60, 12)
CELLS = (
    Cell("tiny", "zipf", 16, False, *_TINY),
    Cell("tiny", "zipf", 16, True, *_TINY),
    Cell("tiny", "split", 16, False, *_TINY),
    Cell("tiny", "split", 5, False, *_TINY),
    Cell("smollm2", "zipf", 16, False, *_SMOLLM2),
    Cell("smollm2", "zipf", 16, True, *_SMOLLM2),
)
"""A closed loop stands before the open one of the same fleet, which takes its rate."""


def popularity_classes(weights: Mapping[str, float]) -> dict[str, str]:
    """Each adapter's class; they come with the most popular first."""
    found, before = {}, 0.0
    for name, weight in weights.items():
        at = before + 1e-9
        found[name] = CLASSES[0 if at < _HOT else 1 if at < _WARM else 2]
        before += weight
    return found


def closed_of(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The closed loop that an open one takes its rate from."""
    return next(
        (c for c in cells if not c.open_loop and c.fleet == cell.fleet),
        None,
    )
