"""The caller's end of a submitted request: events out, cancellation in."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Self, TypeVar

from ..api.answers import AdapterUse, Generation, TokenEvent
from ..api.requests import Request
from ..errors import UnreadAnswerError
from .answer import Answer
from .messages.parsing import MessageParser
from .unread import Backlog, Backlogs
from .wakeups import Wakeups

T = TypeVar("T")
_AT_ONCE = 256
"""Events that are put together before an event loop gets a turn: about a tenth of a millisecond."""
_READ_AT_ONCE = 32
"""Events that a parser is given together, if there are so many."""


class RequestHandle:
    """Iterate it, with `for` or `async for`, for the TokenEvents of all choices.

    Iteration ends after the last choice's final event and raises RequestTimeoutError,
    RequestCancelledError, EngineStoppedError, EngineFailedError or UnreadAnswerError when the
    request ended so. One consumer per handle; `cancel` may be called from any thread.
    """

    def __init__(
        self,
        request: Request,
        request_id: str,
        prompt_token_ids: tuple[int, ...],
        adapters: tuple[AdapterUse, ...],
        on_cancel: Callable[[RequestHandle], None],
        backlog: Backlog | None = None,
        token_bytes: Callable[[int], bytes] = lambda token_id: b"",
        parser: MessageParser | None = None,
    ) -> None:
        """`parser`: gives the events their messages, if these are wanted."""
        self.request = request
        self.request_id = request_id
        self.prompt_token_ids = prompt_token_ids
        self.adapters = adapters
        self.token_bytes = token_bytes
        """Give a token's text as bytes, where it stands behind others: in UTF-8, and of one that has
        but a part of a character these bytes. A special token has its name's."""
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._events: deque[TokenEvent] = deque()
        self._backlog = backlog or Backlogs().open()
        self._parser = parser
        self._answer = Answer(request.sampling.n)
        self._generation: Generation | None = None
        self._iterated = False
        self._open_choices = request.sampling.n
        self._error: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    @property
    def adapter_version(self) -> str:
        """Version of the one adapter that serves; empty for the base and for several (see
        `adapters`)."""
        return self.adapters[0].version if self.request.adapter_id else ""

    def cancel(self) -> None:
        """Free sequences, KV blocks and lease before the next step. Idempotent."""
        if self._open_choices:  # else all is free, and the engine thread need not be woken for it
            self._on_cancel(self)
        if self._parser is not None:
            self._parser.close()

    def __iter__(self) -> Iterator[TokenEvent]:
        while True:
            with self._changed:
                self._changed.wait_for(self._ready)
                events = self._take_next()
            if events is None:
                return
            yield from events if self._parser is None else self._parser.read(events)

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        return self._taken(self._take) if self._parser is None else self._parsed(self._parser)

    async def _parsed(self, parser: MessageParser) -> AsyncIterator[TokenEvent]:
        async for events in self._taken(self._take_next):
            for event in await parser.aread(events):
                yield event

    async def batches(self, at_most: int = _AT_ONCE) -> AsyncIterator[list[TokenEvent]]:
        """Iterate as `async for` over the handle does, over all events that wait, `at_most` at
        once."""
        self._iterated = True
        async for events in self._taken(lambda: self._take_some(at_most)):
            yield events if self._parser is None else await self._parser.aread(events)

    def result(self) -> Generation:
        """Wait for all choices; the same answer however often it is called.

        Raises as iteration does, and RuntimeError if events were taken by iteration.
        """
        while True:
            with self._changed:
                self._changed.wait_for(self._ready)
                events = self._take_some()
            if events is None:
                return self._whole()
            if self._parser is not None:
                events = self._parser.read(events, whole=True)
            self._answer.add(events)

    async def aresult(self) -> Generation:
        """Wait as `result`; cancels the request if this coroutine is cancelled."""
        try:
            async for events in self._taken(self._take_some):
                if self._parser is not None:
                    events = await self._parser.aread(events, whole=True)
                self._answer.add(events)
                if len(events) == _AT_ONCE:
                    await asyncio.sleep(0)
            return self._whole()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def push(self, event: TokenEvent, wakeups: Wakeups | None = None) -> None:
        """Engine side: deliver an event. What nobody takes ends the request before it is too much.

        `wakeups`: takes the wake-up of a caller on an event loop; without it that is sent at once.
        """
        with self._changed:
            if self._error is not None:
                return
            self._events.append(event)
            self._open_choices -= event.finish_reason is not None
            if too_much := not self._backlog.add(event):
                self._events.clear()
                self._backlog.drop()
                self._error = UnreadAnswerError()
            self._notify(wakeups)
        if too_much:
            self.cancel()

    def fail(self, error: Exception) -> None:
        """Engine side: end the request with an error, after the events delivered so far."""
        with self._changed:
            if self._open_choices and self._error is None:
                self._error = error
                self._notify()

    def _ready(self) -> bool:
        return bool(self._events) or self._error is not None or self._open_choices == 0

    def _take(self) -> TokenEvent | None:
        """The next event, None at the end; raises the request's error."""
        if self._events:
            self._iterated = True
            event = self._events.popleft()
            self._backlog.take(event)
            return event
        if self._error is not None:
            raise self._error
        return None

    def _take_next(self) -> list[TokenEvent] | None:
        """Events for iteration: one, but for a parser what there is of a few."""
        self._iterated = self._iterated or bool(self._events)
        return self._take_some(1 if self._parser is None else _READ_AT_ONCE)

    def _take_some(self, at_most: int = _AT_ONCE) -> list[TokenEvent] | None:
        """The next events, None at the end; raises as `_take`."""
        if self._events:
            events = [self._events.popleft() for _ in range(min(at_most, len(self._events)))]
            for event in events:
                self._backlog.take(event)
            return events
        if self._error is not None:
            raise self._error
        return None

    async def _taken(self, take: Callable[[], T | None]) -> AsyncIterator[T]:
        """What `take` gives, until that is None."""
        wake = asyncio.Event()
        with self._changed:
            self._loop, self._wake = asyncio.get_running_loop(), wake
        while True:
            with self._changed:
                wake.clear()
                ready = self._ready()
                taken = take() if ready else None
            if not ready:
                await wake.wait()
            elif taken is None:
                return
            else:
                yield taken

    def _notify(self, wakeups: Wakeups | None = None) -> None:
        self._changed.notify_all()
        if self._loop is None or self._wake is None:
            return
        given = wakeups or Wakeups()
        given.add(self._loop, self._wake)
        if wakeups is None:
            given.send()

    def _whole(self) -> Generation:
        if self._generation is None:
            if self._iterated:
                raise RuntimeError("there is no whole result: events were taken by iteration")
            self._generation = Generation(
                self.request_id,
                self.request.adapter_id,
                self.adapter_version,
                self._answer.choices(),
                self.adapters,
            )
            self._answer = Answer(0)
        return self._generation


class EventStream:
    """The events of a request, which is cancelled if the stream is closed or dropped before their
    end."""

    def __init__(self, handle: RequestHandle) -> None:
        self._handle = handle
        self._events = iter(handle)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenEvent:
        return next(self._events)

    def close(self) -> None:
        self._handle.cancel()

    def __del__(self) -> None:
        self.close()
