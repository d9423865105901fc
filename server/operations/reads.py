"""Reports that callers ask for, the same for every front: on threads, since they take locks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..auth.tokens import Caller
from ..threads import Pool, Turns

_EACH = 2
"""Threads that one caller may have at once."""
T = TypeVar("T")


class Reads:
    """Reports of one server. One caller's wait for one another."""

    def __init__(self, threads: Pool) -> None:
        self._threads, self._turns = threads, Turns(_EACH)

    async def run(self, work: Callable[[], T], who: Caller) -> T:
        async with self._turns.taken(who.name):
            return await self._threads.run(work)
