"""Answers that come in events (SSE)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # proxies would collect events
}

_AT_ONCE = 64
"""Events after which others get a turn of the event loop."""


class EventStream(Response):
    """Stream of events, each whole: b"data: ...\\n\\n".

    The status is sent before the first of them: what can be refused is refused before. Errors that
    come later are events, and made by whoever makes the others.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            number = 0
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
                if (number := number + 1) % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # neither may have waited for anything
        await send({"type": "http.response.body", "body": b"", "more_body": False})
