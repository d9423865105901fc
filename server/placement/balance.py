"""The same work for each replica, by as few loads as that takes."""

from __future__ import annotations

from .board import Board

_LEAST_PART = 0.01
"""Of the mean work: what is not worth a step."""
_LEAST_COPY = 0.1
"""Of the mean work: what an adapter has, at least, for each replica beyond its first."""
_FREE_STEPS = 8
"""Steps for each replica that cost no load."""


def merge(board: Board) -> None:
    """Give up replicas of adapters that are no longer asked for enough."""
    for adapter, shares in board.shares.items():
        while len(shares) > 1 and board.demand[adapter] < _LEAST_COPY * board.target * (
            len(shares) - 1
        ):
            smallest = min(shares, key=lambda name: (shares[name], name))
            largest = max(shares, key=lambda name: (shares[name], name))
            board.move(adapter, smallest, largest)


def balance(board: Board, tolerance: float, moves: int) -> None:
    """Move work from the replica with the most to the one with the least, until both are within the
    tolerance, or the moves are used up."""
    steps = _FREE_STEPS * len(board.replicas) + moves
    for _ in range(steps):
        source, to = board.most(), board.least(board.replicas)
        if _even_enough(board, source, to, tolerance):
            break
        work = _to_shift(board, source, to)
        if _shift_shared(board, source, to, work):
            continue
        cost = _move(board, source, to, work, moves)
        if cost is None:
            break
        moves -= cost


def _even_enough(board: Board, source: str, to: str, tolerance: float) -> bool:
    high, low = board.loads[source], board.loads[to]
    return high <= board.target * (1 + tolerance) and low >= board.target * (1 - 2 * tolerance)


def _to_shift(board: Board, source: str, to: str) -> float:
    """Work by which the one with the most, or the one with the least, comes to the mean."""
    high, low = board.loads[source], board.loads[to]
    work = min(high - board.target, board.target - low)
    return work if work > _LEAST_PART * board.target else (high - low) / 2


def _shift_shared(board: Board, source: str, to: str, work: float) -> bool:
    """Shift work of an adapter that is on both, which costs nothing."""
    shared = [a for a in board.held[source] & board.held[to] if board.shares[a][source] > 0]
    if not shared:
        return False
    adapter = max(shared, key=lambda name: (board.shares[name][source], name))
    there = board.shares[adapter][source]
    if there <= work + _LEAST_PART * board.target:
        board.move(adapter, source, to)
    else:
        board.shift(adapter, source, to, work)
    return True


def _move(board: Board, source: str, to: str, work: float, moves: int) -> int | None:
    """Move an adapter of about that work, or a part of the largest. Gives its cost, or None where
    nothing can be moved for that many loads."""
    candidates = {
        adapter: board.shares[adapter][source]
        for adapter in board.held[source] - board.held[to]
        if board.cost(adapter, source, to) <= moves and board.shares[adapter][source] > 0
    }
    if not candidates:
        return None
    fitting = [name for name, share in candidates.items() if share <= work]
    whole = max(fitting, key=lambda name: (candidates[name], name), default=None)
    largest = max(candidates, key=lambda name: (candidates[name], name))
    copy_cost = board.copy_cost(largest, to)
    if whole is not None and (
        candidates[whole] >= work / 2 or candidates[largest] < work or copy_cost > moves
    ):
        cost = board.cost(whole, source, to)
        board.move(whole, source, to)
        return cost
    if copy_cost > moves:
        return None
    board.shift(largest, source, to, work)
    return copy_cost
