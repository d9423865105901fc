"""Streams of an answer's increments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from lora_runtime import RequestHandle, TokenEvent

from ... import errors
from ...calls import Call as HttpCall
from ...streams import EventStream
from ..requests.body import Call
from .chunks import DONE, Chunks, usage_chunk
from .whole import Head, Running, Totals, dumps

_AT_ONCE = 64
"""Increments of one write: some tenths of a millisecond to make, with 20 logprobs each two."""
Batch = tuple[int, list[TokenEvent]]


async def begun(http: HttpCall, call: Call, head: Head, running: Sequence[Running]) -> EventStream:
    """Make the answer once it has begun: what fails before is told by a status.

    What waits while one write is under way goes into the next; of a reader that stops, what is left
    unread is bounded by the engine.
    """
    body = _body(call, head, running)
    return EventStream(_to_end(http, await anext(body), body))


async def _to_end(
    http: HttpCall, first: bytes, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """Give everything, and what ended it if that was an error."""
    try:
        yield first
        async with aclosing(rest):
            async for data in rest:
                yield data
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        yield f"data: {dumps(errors.body(error, http.request_id, http.fields))}\n\n".encode()
    yield DONE


async def _body(call: Call, head: Head, running: Sequence[Running]) -> AsyncGenerator[bytes, None]:
    totals, each = Totals(), running[0].handle.request.sampling.n
    chunks = [Chunks(call, head, one, totals, i * each) for i, one in enumerate(running)]
    async with aclosing(_batches([one.handle for one in running])) as batches:
        async for index, events in batches:
            yield chunks[index].write(events)
    if call.usage.include_usage:
        yield usage_chunk(call, head, totals)


async def _batches(handles: Sequence[RequestHandle]) -> AsyncGenerator[Batch, None]:
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
