"""The placement while it is worked out: who serves how much of what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Replica:
    """A server: how many adapters fit into its slots, and which are there at this moment."""

    slots: int
    resident: frozenset[str] = frozenset()


class Board:
    """Work of each adapter by replica, with what follows from it kept up to date.

    Work is in any unit, such as tokens per second.
    """

    def __init__(self, demand: Mapping[str, float], replicas: Mapping[str, Replica]) -> None:
        self.demand, self.replicas = demand, replicas
        self.shares: dict[str, dict[str, float]] = {}
        """Work by replica, by adapter."""
        self.held: dict[str, set[str]] = {name: set() for name in replicas}
        """Adapters by replica."""
        self.loads = dict.fromkeys(replicas, 0.0)
        self.target = sum(demand.values()) / len(replicas)
        """The work of each replica, were all alike."""

    def give(self, adapter: str, replica: str, work: float) -> None:
        """Put work of an adapter on a replica, beside what of it is there."""
        shares = self.shares.setdefault(adapter, {})
        shares[replica] = shares.get(replica, 0.0) + work
        self.held[replica].add(adapter)
        self.loads[replica] += work

    def take(self, adapter: str, replica: str) -> float:
        """Take all work of an adapter off a replica, and give how much it was."""
        work = self.shares[adapter].pop(replica)
        self.held[replica].discard(adapter)
        self.loads[replica] -= work
        return work

    def move(self, adapter: str, source: str, to: str) -> None:
        """Take an adapter from one replica to another."""
        self.give(adapter, to, self.take(adapter, source))

    def shift(self, adapter: str, source: str, to: str, work: float) -> None:
        """Move a part of an adapter's work."""
        self.shares[adapter][source] -= work
        self.loads[source] -= work
        self.give(adapter, to, work)

    def cost(self, adapter: str, source: str, to: str) -> int:
        """Give how many loads it costs, beyond those that come anyway, that `to` serves it."""
        if adapter in self.replicas[to].resident:
            return 0
        return int(adapter in self.replicas[source].resident)

    def copy_cost(self, adapter: str, to: str) -> int:
        """Give how many loads it costs that `to` serves it, too. What is nowhere comes anyway."""
        if adapter in self.replicas[to].resident:
            return 0
        return int(any(adapter in replica.resident for replica in self.replicas.values()))

    def free(self, replica: str) -> int:
        """Give the slots that nothing is placed on; below 0 where more is placed than fits."""
        return self.replicas[replica].slots - len(self.held[replica])

    def least(self, among: Iterable[str]) -> str:
        """Find the replica with the least work; by name among equals."""
        return min(among, key=lambda name: (self.loads[name], name))

    def most(self) -> str:
        """Find the replica with the most work; by name among equals."""
        return max(self.loads, key=lambda name: (self.loads[name], name))

    def by_demand(self, adapters: Iterable[str]) -> list[str]:
        """Sort adapters, the most asked for first; by name among equals."""
        return sorted(adapters, key=lambda name: (-self.demand[name], name))
