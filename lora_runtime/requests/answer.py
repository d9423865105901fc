"""A whole answer, put together as its events come."""

from __future__ import annotations

from collections.abc import Iterable

from ..api.answers import Choice, TokenEvent, TokenLogprob
from ..api.parsed import MessageDelta, joined


class Answer:
    """The choices of one request so far."""

    def __init__(self, choices: int) -> None:
        self._parts = [_Part() for _ in range(choices)]

    def add(self, events: Iterable[TokenEvent]) -> None:
        for event in events:
            self._parts[event.index].add(event)

    def choices(self) -> tuple[Choice, ...]:
        """All choices, each of which has had its last event."""
        return tuple(part.choice() for part in self._parts)


class _Part:
    def __init__(self) -> None:
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._messages: list[MessageDelta] = []
        self._last: TokenEvent | None = None

    def add(self, event: TokenEvent) -> None:
        if event.message is not None:
            self._messages.append(event.message)
        self._texts.append(event.text)
        self._token_ids += event.token_ids
        self._logprobs += event.logprobs
        self._last = event

    def choice(self) -> Choice:
        last = self._last
        assert last is not None
        assert last.finish_reason is not None
        assert last.usage is not None
        assert last.timings is not None
        return Choice(
            last.index,
            "".join(self._texts),
            tuple(self._token_ids),
            tuple(self._logprobs),
            last.finish_reason,
            last.usage,
            last.timings,
            None if last.message is None else joined(self._messages),
            last.stopped_by,
        )
