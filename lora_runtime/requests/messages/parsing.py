"""Messages of a request's answers, read from its events as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...api.answers import TokenEvent
from ...api.parsed import MessageDelta


class MessageParser(Protocol):
    """Reader of one request's events, in their order: it gives them with their `message`.

    `whole`: nobody waits for parts; they may come with a later event, the last at the latest.
    """

    def read(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        """Read on; may take as long as a template does under its limits."""
        ...

    async def aread(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        """Read on, on an event loop, which is not held."""
        ...

    def close(self) -> None:
        """Free what it holds. Idempotent, from any thread."""
        ...


def with_message(event: TokenEvent, message: MessageDelta) -> TokenEvent:
    # Beside __init__, which takes three times as long, for each token.
    found = object.__new__(TokenEvent)
    vars(found).update(vars(event), message=message)
    return found


class PlainParser:
    """Reader of answers that are content alone."""

    def read(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        return [with_message(event, MessageDelta(event.text)) for event in events]

    async def aread(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        return self.read(events)

    def close(self) -> None:
        pass
