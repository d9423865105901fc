"""Wake-ups of event loops by the engine thread: one for each loop and step, not for each token."""

from __future__ import annotations

import asyncio


class Wakeups:
    """Events of event loops, gathered until `send`. For one thread.

    To wake a loop is a system call, behind which two threads want the interpreter: for each row of
    a step it would take longer than the step.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        self._waiting.setdefault(loop, []).append(event)

    def send(self) -> None:
        """Set the events on their loops; those of a loop that is closed are nobody's."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for loop, events in waiting.items():
            try:
                loop.call_soon_threadsafe(_set_all, events)
            except RuntimeError:
                if not loop.is_closed():
                    raise


def _set_all(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()
