"""Adapters that have no replica get one: those of the tail first, then the most asked for."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator

from .board import Board
from .tail import Tail


class _ByLoad:
    """Replicas of which the one with the least work is found in O(log n), while work only grows."""

    def __init__(self, board: Board, names: Iterable[str]) -> None:
        self._board = board
        self._heap = [(board.loads[name], name) for name in names]
        heapq.heapify(self._heap)

    def least(self) -> str | None:
        while self._heap:
            load, name = self._heap[0]
            if load == self._board.loads[name]:
                return name
            heapq.heapreplace(self._heap, (self._board.loads[name], name))
        return None

    def drop(self) -> None:
        """Leave the one out that was found last."""
        heapq.heappop(self._heap)


class _Settling:
    def __init__(self, board: Board, tail: Tail, tolerance: float) -> None:
        self._board, self._tail = board, tail
        self._limit = board.target * (1 + tolerance)
        self._all = _ByLoad(board, board.replicas)
        self._with_slots = _ByLoad(board, board.replicas)
        self._of_tail = _ByLoad(board, tail.replicas)

    def place(self, adapter: str, work: float) -> None:
        self._board.give(adapter, self._home(adapter, work), work)

    def _home(self, adapter: str, work: float) -> str:
        board = self._board
        there = [n for n in self._residences(adapter) if board.loads[n] + work <= self._limit]
        if there:
            return board.least(there)
        rank_home = (
            self._of_tail.least() if adapter in self._tail.adapters else self._least_with_slots()
        )
        if rank_home is not None and board.loads[rank_home] + work <= self._limit:
            return rank_home
        home = self._all.least()
        assert home is not None  # there is a replica
        return home

    def _residences(self, adapter: str) -> Iterator[str]:
        shares = self._board.shares.get(adapter, {})
        for name, replica in self._board.replicas.items():
            if adapter in replica.resident and name not in shares:
                yield name

    def _least_with_slots(self) -> str | None:
        while (name := self._with_slots.least()) is not None:
            if self._tail.room(self._board, name) > 0:
                return name
            self._with_slots.drop()
        return None

    def place_parts(self, adapter: str, work: float, parts: int) -> None:
        """Place an adapter that is too much for one replica, on several."""
        board = self._board
        by_load = sorted(board.loads, key=lambda name: (board.loads[name], name))
        for name in by_load[:parts]:
            board.give(adapter, name, work / parts)


def settle(board: Board, tail: Tail, tolerance: float) -> None:
    """Give each adapter without a replica one, or as many as its work needs."""
    settling = _Settling(board, tail, tolerance)
    homeless = (name for name in board.demand if name not in board.shares)
    ranked = sorted(board.by_demand(homeless), key=lambda name: name not in tail.adapters)
    for adapter in ranked:
        work = board.demand[adapter]
        parts = min(math.ceil(work / board.target), len(board.replicas)) if work else 1
        if parts > 1:
            settling.place_parts(adapter, work, parts)
        else:
            settling.place(adapter, work)
