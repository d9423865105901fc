"""The caller's end of a submitted request: events out, cancellation in."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Self

from ..api.requests import AdapterUse, Choice, Generation, Request, TokenEvent, TokenLogprob


class RequestHandle:
    """Iterate it, with `for` or `async for`, for the TokenEvents of all choices.

    Iteration ends after the last choice's final event and raises RequestTimeoutError,
    RequestCancelledError, EngineStoppedError or EngineFailedError when the request ended so. One
    consumer per handle; `cancel` may be called from any thread.
    """

    def __init__(
        self,
        request: Request,
        request_id: str,
        prompt_token_ids: tuple[int, ...],
        adapters: tuple[AdapterUse, ...],
        on_cancel: Callable[[RequestHandle], None],
    ) -> None:
        self.request = request
        self.request_id = request_id
        self.prompt_token_ids = prompt_token_ids
        self.adapters = adapters
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._events: deque[TokenEvent] = deque()
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
        self._on_cancel(self)

    def __iter__(self) -> Iterator[TokenEvent]:
        while True:
            with self._changed:
                self._changed.wait_for(self._ready)
                event = self._take()
            if event is None:
                return
            yield event

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        wake = asyncio.Event()
        with self._changed:
            self._loop, self._wake = asyncio.get_running_loop(), wake
        while True:
            with self._changed:
                wake.clear()
                ready = self._ready()
                event = self._take() if ready else None
            if not ready:
                await wake.wait()
            elif event is None:
                return
            else:
                yield event

    def result(self) -> Generation:
        """Wait for all choices."""
        return self._collect(list(self))

    async def aresult(self) -> Generation:
        """Wait for all choices; cancels the request if this coroutine is cancelled."""
        try:
            return self._collect([event async for event in self])
        except asyncio.CancelledError:
            self.cancel()
            raise

    def push(self, event: TokenEvent) -> None:
        """Engine side: deliver an event."""
        with self._changed:
            self._events.append(event)
            self._open_choices -= event.finish_reason is not None
            self._notify()

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
            return self._events.popleft()
        if self._error is not None:
            raise self._error
        return None

    def _notify(self) -> None:
        self._changed.notify_all()
        if self._loop is not None and self._wake is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def _collect(self, events: list[TokenEvent]) -> Generation:
        choices = [
            _merge([e for e in events if e.index == i]) for i in range(self.request.sampling.n)
        ]
        return Generation(
            self.request_id,
            self.request.adapter_id,
            self.adapter_version,
            tuple(choices),
            self.adapters,
        )


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


def _merge(events: list[TokenEvent]) -> Choice:
    last = events[-1]
    assert last.finish_reason is not None
    assert last.usage is not None
    assert last.timings is not None
    token_ids: tuple[int, ...] = sum((e.token_ids for e in events), ())
    logprobs: tuple[TokenLogprob, ...] = sum((e.logprobs for e in events), ())
    return Choice(
        last.index,
        "".join(e.text for e in events),
        token_ids,
        logprobs,
        last.finish_reason,
        last.usage,
        last.timings,
    )
