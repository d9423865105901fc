"""The tail: adapters that no slot is left for, and the replicas that take them."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from .board import Board

_PART_OF_SLOTS = 4
"""One of so many slots of a replica that takes the tail is left to it."""
_PART_OF_WORK = 0.5
"""Part of such a replica's work that the tail may be."""
_LIMIT = 1.3
"""Of the mean work, to which a replica may come by it; who has too much then gives a larger one."""
_WORTH_A_SWAP = 2.0
"""Times by which one adapter must be asked for more than another to take its place."""


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

    def room(self, board: Board, replica: str) -> int:
        """Give the slots of a replica that an adapter, which is not of the tail, could take; below
        0 where more is placed than fits."""
        if replica not in self.replicas:
            return board.free(replica)
        others = len(board.held[replica] - self.adapters)
        return board.replicas[replica].slots - self.slots - others


class _Consolidation:
    """Moves between the replicas that take the tail and the others, as far as loads are left."""

    def __init__(self, board: Board, tail: Tail, moves: int) -> None:
        self._board, self._tail, self.moves = board, tail, moves
        self._limit = board.target * _LIMIT
        self._others = sorted(board.replicas.keys() - tail.replicas)

    def push(self) -> None:
        """Take what does not fit off the others."""
        board, tail = self._board, self._tail
        room = {name: tail.room(board, name) for name in board.replicas}
        for source in self._others:
            for adapter in self._last(source, -board.free(source)):
                free = [name for name in room if room[name] > 0]
                to = board.least(free or tail.replicas or board.replicas)
                room[to] -= self._move(adapter, source, to)

    def pull(self) -> None:
        """Fill slots that the others have free with what is asked for most of the tail."""
        waiting = deque(self._contending())
        for to in self._others:
            while waiting and self._board.free(to) > 0:
                if not self._move(*waiting.popleft(), to):
                    break

    def swap(self) -> None:
        """Exchange the last of the others for one of the tail that is asked for much more."""
        board = self._board
        last = [(name, home) for home in self._others for name in self._last(home, 1)]
        last.sort(key=lambda pair: (board.demand[pair[0]], pair))
        for (cold, home), (hot, source) in zip(last, self._contending(), strict=False):
            if board.demand[hot] < _WORTH_A_SWAP * board.demand[cold]:
                break
            if self.moves >= 2 and self._move(hot, source, home):
                self._move(cold, home, source)

    def _last(self, replica: str, count: int) -> list[str]:
        """Adapters of a replica that are asked for least."""
        board = self._board
        return board.by_demand(board.held[replica])[-count:] if count > 0 else []

    def _contending(self) -> list[tuple[str, str]]:
        """Adapters on replicas of the tail that have no slot for sure, those asked for most first."""
        board = self._board
        found = []
        for name in sorted(self._tail.replicas):
            sure = max(0, board.replicas[name].slots - self._tail.slots)
            found += [(adapter, name) for adapter in board.by_demand(board.held[name])[sure:]]
        return sorted(found, key=lambda pair: (-board.demand[pair[0]], pair))

    def _move(self, adapter: str, source: str, to: str) -> bool:
        board = self._board
        cost = board.cost(adapter, source, to)
        if to in board.shares[adapter] or cost > self.moves:
            return False
        if board.loads[to] + board.shares[adapter][source] > self._limit:
            return False
        board.move(adapter, source, to)
        self.moves -= cost
        return True


def consolidate(board: Board, tail: Tail, moves: int) -> int:
    """Give those adapters a slot of their own that are asked for most."""
    work = _Consolidation(board, tail, moves)
    work.push()
    work.pull()
    work.swap()
    return moves - work.moves
