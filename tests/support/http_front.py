"""The HTTP front of a server on a tiny base, with a client of it: in the process, or on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from server.config import Settings

from .servers import Harness, running
from .tokens import token_of


@dataclass
class HttpHarness:
    """The server under test, and a client of its HTTP front."""

    server: Harness
    client: httpx.AsyncClient
    """Without a port: an ASGI transport of the app. It cannot stream, nor go away in the middle."""
    url: str = ""
    """Of the real port, if there is one."""

    async def get(self, path: str, who: str = "", **options: Any) -> httpx.Response:
        return await self.client.get(path, headers=as_(who), **options)

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, who: str = "", **options: Any
    ) -> httpx.Response:
        return await self.client.post(path, json=body or {}, headers=as_(who), **options)


def as_(who: str) -> dict[str, str]:
    """Headers of a caller of tests/support/tokens.py; none for ""."""
    return {"authorization": f"Bearer {token_of(who)}"} if who else {}


@asynccontextmanager
async def http_running(
    settings: Settings, load: bool = True, port: bool = False
) -> AsyncIterator[HttpHarness]:
    """A server and a client of its HTTP front; on a real port if `port`."""
    async with running(settings, load) as server, _client(server, port) as client:
        yield HttpHarness(server, client, str(client.base_url))


@asynccontextmanager
async def _client(server: Harness, port: bool) -> AsyncIterator[httpx.AsyncClient]:
    if not port:
        transport = httpx.ASGITransport(server.app.http.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
            yield client
        return
    front = server.app.http.make_server()
    await front.start("127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{front.port}"
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield client
    finally:
        await front.stop()
