"""Calls that run now, counted by client."""

from __future__ import annotations

from collections import Counter

import grpc

from .connections import Address, address_of

_OWN = "loramux."


class RunningCalls:
    """Observer that counts the running calls of loramux's own services.

    Streams of health and reflection do not count: they stay open for as long as a client likes.
    """

    def __init__(self) -> None:
        self.count = 0
        self._by_peer: Counter[str] = Counter()

    def clients(self) -> set[Address | None]:
        """Find the clients that have a call; None among them is one whose address is not known."""
        return {address_of(peer) for peer in self._by_peer}

    def begun(self, method: str, peer: str) -> None:
        if method.startswith(_OWN):
            self.count += 1
            self._by_peer[peer] += 1

    def ended(self, method: str, peer: str, code: grpc.StatusCode) -> None:
        if method.startswith(_OWN):
            self.count -= 1
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]
