"""HTTP fronts: an app of routes that do what tests need, on a real port, without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from starlette.responses import JSONResponse, Response

from server.http.access import Access
from server.http.app import HttpApp, Route
from server.http.bodies.json_text import Limits
from server.http.bodies.reading import Reader
from server.http.calls import Call, Parts
from server.http.connections.server import HttpServer
from server.http.streams import EventStream
from server.operations.reads import Reads
from server.threads import Threads

MAX_BYTES = 200_000


@dataclass
class Front:
    """A front without an engine."""

    server: HttpServer
    app: HttpApp
    ended: list[tuple[str, int]] = field(default_factory=list)
    """Route and status of each call."""
    refused: list[int] = field(default_factory=list)
    """Statuses of what was refused without a call."""
    slow: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a call of /slow has begun."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once one was ended."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


MakeFront = Callable[..., AbstractAsyncContextManager[Front]]


@pytest.fixture
def make_front() -> MakeFront:
    return _front


@asynccontextmanager
async def _front(**options: Any) -> AsyncIterator[Front]:
    threads, max_bytes = Threads(), options.pop("max_bytes", MAX_BYTES)
    parts = Parts(
        engine=cast(Any, None),
        submission=cast(Any, None),
        threads=threads,
        readiness=cast(Any, None),
        metrics=cast(Any, None),
        access=Access(options.pop("tokens", None), lambda reason: None),
        names=cast(Any, None),
        reads=Reads(threads.reading),
        reports=cast(Any, None),
        adapter_pages=cast(Any, None),
        changes=cast(Any, None),
        reader=Reader(max_bytes, threads.parsing),
        max_message_bytes=max_bytes,
    )

    async def echo(call: Call) -> Response:
        read = await call.parts.reader.read_object(call.request, call.who, Limits(1000))
        return JSONResponse({"read": len(str(read)), "id": call.request_id})

    async def hello(call: Call) -> Response:
        return JSONResponse({"hello": call.request.url.query})

    async def slow(call: Call) -> Response:
        await call.request.body()
        front.slow.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            front.cancelled.set()
            raise
        return Response()

    async def flood(call: Call) -> Response:
        async def events() -> Any:
            try:
                while True:
                    yield b"data: " + b"x" * 60_000 + b"\n\n"
            finally:
                front.cancelled.set()

        return EventStream(events())

    async def broken(call: Call) -> Response:
        async def events() -> Any:
            yield b"data: one\n\n"
            raise ValueError("two")

        return EventStream(events())

    routes = (
        Route("GET", "/broken", broken),
        Route("POST", "/echo", echo),
        Route("GET", "/hello", hello, is_open=True),
        Route("GET", "/slow", slow),
        Route("POST", "/slow", slow),
        Route("GET", "/flood", flood),
    )
    front = cast(Front, None)
    app = HttpApp(parts, lambda *end: front.ended.append(end), routes)
    server = HttpServer(
        app, max_bytes, lambda status: front.refused.append(status), options.pop("tls", None)
    )
    front = Front(server, app)
    await server.start("127.0.0.1", 0)
    try:
        yield front
    finally:
        await server.stop()
        threads.close()
