"""Streams of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lora_runtime import RequestHandle, TokenEvent

from .. import errors
from ..calls import Call as HttpCall
from .answers import Head, Totals, dumps
from .chunks import DONE, Chunks, usage_chunk
from .requests import Call

_AT_ONCE = 64
"""Events of one write: some tenths of a millisecond to make, with 20 logprobs each two."""
Batch = tuple[int, list[TokenEvent]]


class Answer(Response):
    """Stream of an answer's increments. What waits while one write is under way goes into the next;
    of a reader that stops, what is left unread is bounded by the engine."""

    media_type = "text/event-stream"

    def __init__(self, http: HttpCall, call: Call, head: Head, body: AsyncIterator[bytes]) -> None:
        self._http, self._call, self._head, self._body = http, call, head, body
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    @classmethod
    async def begun(
        cls, http: HttpCall, call: Call, head: Head, handles: Sequence[RequestHandle]
    ) -> Answer:
        """Make the answer once it has begun: what fails before is told by a status."""
        body = _body(call, head, handles)
        first = await anext(body)
        return cls(http, call, head, _with(first, body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with aclosing(self._body) as body:
                async for data in body:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        except (asyncio.CancelledError, OSError):
            raise
        except BaseException as error:
            told = errors.body(error, self._http.request_id, self._http.fields)
            data = f"data: {dumps(told)}\n\n".encode()
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": DONE, "more_body": False})


async def _body(call: Call, head: Head, handles: Sequence[RequestHandle]) -> AsyncIterator[bytes]:
    totals, each = Totals(), handles[0].request.sampling.n
    chunks = [Chunks(call, head, one, totals, i * each) for i, one in enumerate(handles)]
    async with aclosing(_batches(handles)) as batches:
        async for index, events in batches:
            yield chunks[index].write(events)
    if call.usage.include_usage:
        yield usage_chunk(call, head, totals)


async def _with(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for data in rest:
        yield data


async def _batches(handles: Sequence[RequestHandle]) -> AsyncIterator[Batch]:
    """Give the events of all requests as they come, with the place of each."""
    if len(handles) == 1:
        async for events in handles[0].batches(_AT_ONCE):
            yield 0, events
        return
    # Of one place: what nobody reads stays with the engine, which counts it.
    ready: asyncio.Queue[Batch | Exception | None] = asyncio.Queue(1)
    readers = [asyncio.create_task(_read(i, one, ready)) for i, one in enumerate(handles)]
    try:
        for _ in readers:
            while (found := await ready.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                yield found
    finally:
        for reader in readers:
            reader.cancel()


async def _read(
    index: int, handle: RequestHandle, ready: asyncio.Queue[Batch | Exception | None]
) -> None:
    try:
        async for events in handle.batches(_AT_ONCE):
            await ready.put((index, events))
    except Exception as error:
        await ready.put(error)
    else:
        await ready.put(None)
