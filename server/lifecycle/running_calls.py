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
        self._of: Counter[Address | None] = Counter()

    def of(self, client: Address) -> int:
        """Count the calls that `client` may have: those of unknown clients are everybody's."""
        return self._of[client] + self._of[None]

    def begun(self, method: str, peer: str) -> None:
        if method.startswith(_OWN):
            self.count += 1
            self._of[address_of(peer)] += 1

    def ended(self, method: str, peer: str, code: grpc.StatusCode) -> None:
        if method.startswith(_OWN):
            self.count -= 1
            client = address_of(peer)
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]
