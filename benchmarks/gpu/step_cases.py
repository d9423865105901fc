"""Steps to measure, as data: needs no torch, so that tables can be made anywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.gpu.cost import Rows

BLOCK = 16
"""Positions of a KV block."""


@dataclass(frozen=True)
class StepCase:
    """`sequences` with `new` rows each and then `context` positions, adapters of `rank` in turn (0
    adapters: base).

    `chunk`: rows of one more sequence, a prompt's first, which shares the first one's adapter.
    """

    sequences: int
    new: int
    context: int
    adapters: int = 0
    rank: int = 0
    chunk: int = 0

    @property
    def name(self) -> str:
        kind = "mixed" if self.chunk else "decode" if self.new == 1 else "prefill"
        adapters = f"{self.adapters} x rank {self.rank}" if self.adapters else "base"
        more = f" + {self.chunk}" if self.chunk else ""
        return f"{kind} {self.sequences} x {self.new} over {self.context}{more}, {adapters}"

    @property
    def plain(self) -> StepCase:
        """The same step without adapters."""
        return replace(self, adapters=0, rank=0)

    def counts(self) -> list[tuple[int, int]]:
        """(new rows, context) of each sequence."""
        return [(self.new, self.context)] * self.sequences + [(self.chunk, self.chunk)] * bool(
            self.chunk
        )

    def order(self) -> list[int]:
        """Each sequence's adapter: those of one are neighbours, as BatchPlanner sorts them."""
        return sorted(i % self.adapters for i in range(len(self.counts()))) if self.adapters else []

    def rows(self) -> list[Rows]:
        owners = self.order() or [0] * len(self.counts())
        return [
            Rows(new, context, self.rank, owner)
            for (new, context), owner in zip(self.counts(), owners, strict=True)
        ]

    def blocks(self) -> int:
        return sum(-(-context // BLOCK) for _, context in self.counts())
