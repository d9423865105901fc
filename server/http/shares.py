"""Shares of the HTTP front: no caller has more than half of the places for its calls."""

from __future__ import annotations

from collections import Counter

from ..auth.tokens import ANYONE, Caller
from .errors import HttpError


class CallShares:
    """Calls that each caller with a token has at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: Counter[str] = Counter()

    def take(self, who: Caller) -> None:
        """Count a call. Raises HttpError over the caller's share."""
        if who is ANYONE:
            return
        if self._calls[who.name] >= self._most:
            raise HttpError(
                429,
                "too_many_calls",
                f"caller '{who.name}' has {self._most} calls at once already",
                headers={"retry-after-ms": "1000", "retry-after": "1"},
            )
        self._calls[who.name] += 1

    def give_back(self, who: Caller) -> None:
        """Count a call no more."""
        if who is not ANYONE and self._calls[who.name] > 1:
            self._calls[who.name] -= 1
        else:
            del self._calls[who.name]
