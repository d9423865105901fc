"""A crowd: who has more than half of what runs, and what that means for others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..requests.sequence import Sequence

Turn = tuple[float, float, float]
"""(- priority with its aging, tokens served to the tenant, and to the caller): the smallest goes
first."""


@dataclass(frozen=True)
class Crowd:
    """One tenant's sequences, or one caller's."""

    name: str
    by_caller: bool = False

    def has(self, seq: Sequence) -> bool:
        return (seq.caller if self.by_caller else seq.tenant) == self.name

    def place(self, turn: Turn) -> tuple[float, float]:
        """The part of a turn that tells others from the crowd."""
        return turn[0], turn[2 if self.by_caller else 1]


@dataclass
class Running:
    """Numbers of running sequences, by tenant and by caller."""

    of_tenant: Counter[str] = field(default_factory=Counter)
    of_caller: Counter[str] = field(default_factory=Counter)

    def count(self, seq: Sequence, change: int) -> None:
        for counter, name in ((self.of_tenant, seq.tenant), (self.of_caller, seq.caller)):
            counter[name] += change
            if not counter[name]:
                del counter[name]

    def of(self, crowd: Crowd) -> int:
        return (self.of_caller if crowd.by_caller else self.of_tenant)[crowd.name]

    def crowds(self) -> list[Crowd]:
        """Those that have more than half, of two at least."""
        found = []
        for by_caller, counter in ((False, self.of_tenant), (True, self.of_caller)):
            name, count = max(counter.items(), key=lambda item: item[1], default=("", 0))
            if 2 * count > max(2, counter.total()):
                found.append(Crowd(name, by_caller))
        return found
