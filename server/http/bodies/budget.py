"""Budget of the bytes of bodies that are on their way, or wait to be parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import HttpError


class BodyBudget:
    """Budget of one server. Over it, the body that has taken longest is given up: those of callers
    who send what they have are there within a moment."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self._bodies: dict[Body, None] = {}

    @contextmanager
    def body(self) -> Iterator[Body]:
        """Hold one call's body. Raises HttpError in the block when it is given up."""
        task = asyncio.current_task()
        assert task is not None
        body = Body(self, task)
        self._bodies[body] = None
        try:
            yield body
        except asyncio.CancelledError:
            if not body.is_given_up:
                raise
            task.uncancel()
            raise _too_many() from None
        finally:
            self._let_go(body)

    def take(self, body: Body, size: int) -> None:
        """Count more bytes of a body."""
        self._left -= size
        body.size += size
        while self._left < 0:
            oldest = next(iter(self._bodies))
            self._let_go(oldest)
            if oldest is body:
                raise _too_many()
            oldest.is_given_up = True
            oldest.task.cancel()

    def _let_go(self, body: Body) -> None:
        if body in self._bodies:
            del self._bodies[body]
            self._left += body.size


class Body:
    """Body of a call, as far as it has come."""

    def __init__(self, budget: BodyBudget, task: asyncio.Task[object]) -> None:
        self._budget, self.task = budget, task
        self.size = 0
        self.is_given_up = False

    def take(self, size: int) -> None:
        """Count more bytes. Raises HttpError if there is no room for them."""
        self._budget.take(self, size)


def _too_many() -> HttpError:
    wait = {"retry-after": "1"}
    return HttpError(503, "too_many_bodies", "too many large bodies are on their way", headers=wait)
