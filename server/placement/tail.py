"""The tail: adapters that no slot is left for, and the replicas that take them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .board import Board

_PART_OF_SLOTS = 4
"""One of so many slots of a replica that takes the tail is left to it."""
_PART_OF_WORK = 0.5
"""Part of such a replica's work that the tail may be."""


@dataclass(frozen=True)
class Tail:
    """Adapters beyond all slots, and the replicas for them; both empty where everything fits."""

    adapters: frozenset[str]
    replicas: frozenset[str]
    slots: int
    """Of each of those replicas, left to the tail."""

    @classmethod
    def of(cls, board: Board) -> Tail:
        """Find the adapters least asked for, and replicas for them: those that have most now."""
        slots = sum(replica.slots for replica in board.replicas.values())
        if len(board.demand) <= slots:
            return cls(frozenset(), frozenset(), 0)
        ranked = board.by_demand(board.demand)
        names = sorted(board.replicas, key=lambda name: (-len(board.held[name]), name))
        left = max(1, min(r.slots for r in board.replicas.values()) // _PART_OF_SLOTS)
        work = sum(board.demand[name] for name in ranked[slots:])
        most = _PART_OF_WORK * board.target
        count = max(1, math.ceil(work / most)) if most else 1
        chosen = frozenset(names[:count])
        return cls(frozenset(ranked[max(0, slots - left * len(chosen)) :]), chosen, left)

    def kept_free(self, replica: str) -> int:
        """Give the slots of a replica that are not for others."""
        return self.slots if replica in self.replicas else 0


def consolidate(board: Board, tail: Tail, tolerance: float, moves: int) -> None:
    """Take what does not fit off the replicas that are not for the tail."""
    limit = board.target * (1 + tolerance)
    for adapter, source in _too_many(board, tail):
        rooms = [name for name in board.replicas if board.free(name) > tail.kept_free(name)]
        to = board.least(rooms or tail.replicas or board.replicas)
        if to in board.shares[adapter]:
            continue
        cost = board.cost(adapter, source, to)
        if cost <= moves and board.loads[to] + board.shares[adapter][source] <= limit:
            board.move(adapter, source, to)
            moves -= cost


def _too_many(board: Board, tail: Tail) -> Iterator[tuple[str, str]]:
    """Of each replica that holds more than its slots the adapters least asked for."""
    for name in sorted(board.replicas):
        if name not in tail.replicas and (excess := -board.free(name)) > 0:
            for adapter in board.by_demand(board.held[name])[-excess:]:
                yield adapter, name
