"""Placement: from demand and residency to the replicas of each adapter. A pure function.

Each replica gets an equal part of the work. An adapter is on one replica, unless it has more work
than one replica's part, or evens out what whole adapters cannot. It stays where it is: to go
elsewhere costs a load, and a plan may cost `Rules.moves` of them. What does not fit into the slots
of all replicas, the adapters least asked for, is put on few replicas (`Tail`), where they push each
other out of the slots and nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .balance import balance, merge
from .board import Board, Replica
from .settle import settle
from .tail import Tail, consolidate

Placement = Mapping[str, tuple[tuple[str, float], ...]]
"""Replicas of each adapter with their share of its requests, the largest first; the shares of one
adapter are more than 0 and add up to 1."""


_DIGITS = 4
"""Of an adapter's shares."""


@dataclass(frozen=True)
class Rules:
    """What a plan may do."""

    tolerance: float = 0.03
    """Part by which a replica's work may differ from the mean before anything is moved."""
    moves: int = 0
    """Most loads that a plan may cost by itself. Adapters that are nowhere, or were on a replica
    that is gone, are loaded anyway and do not count."""


def plan(
    demand: Mapping[str, float],
    replicas: Mapping[str, Replica],
    current: Placement,
    rules: Rules,
) -> Placement:
    """Place every adapter of `demand`.

    demand: work by adapter, such as tokens per second, 0 or more; only ratios count.
    replicas: those that live; without one there is no placement, an empty one.
    current: the plan that is followed now. Replicas that are gone may be in it.

    The same arguments give the same plan. n adapters on m replicas take O(n log n + (n + moves) m).
    """
    if not replicas or not demand:
        return {}
    board = Board(demand, replicas)
    _keep(board, current)
    tail = Tail.of(board)
    settle(board, tail, rules.tolerance)
    merge(board)
    spent = consolidate(board, tail, rules.moves // 2)
    balance(board, rules.tolerance, rules.moves - spent)
    return {adapter: _weights(board.shares[adapter]) for adapter in sorted(demand)}


def _keep(board: Board, current: Placement) -> None:
    """Begin with what is followed now, as far as its replicas live."""
    for adapter, work in board.demand.items():
        homes = [(name, share) for name, share in current.get(adapter, ()) if name in board.held]
        whole = sum(share for _, share in homes)
        for name, share in homes if whole else ():
            board.give(adapter, name, work * share / whole)


def _weights(shares: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Parts of an adapter's work, rounded: what is kept is the same in the next plan, to the bit.
    Those of nothing are left out."""
    whole = sum(shares.values())
    parts = {name: round(work / whole, _DIGITS) if whole else 0.0 for name, work in shares.items()}
    first, *others = sorted(parts, key=lambda name: (-parts[name], name))
    rest = round(1 - sum(parts[name] for name in others), _DIGITS)
    return ((first, rest), *((name, parts[name]) for name in others if parts[name]))
