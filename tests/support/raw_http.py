"""HTTP/1.1 by hand: what no library would send, and when it would not send it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RawConnection:
    """One connection; `ended` waits for the server to end it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self) -> Answer:
        """Next answer, which must have a length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode().strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (one.partition(":") for one in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(line.split()[1]), headers, body)

    async def ended(self, seconds: float = 20) -> bytes:
        """What is left to read until the server ends the connection; fails if it does not."""
        left = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(seconds):
                while data := await self.reader.read(1 << 16):
                    left += data
        return left


@asynccontextmanager
async def raw(url: str, context: ssl.SSLContext | None = None) -> AsyncIterator[RawConnection]:
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port, ssl=context)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


def request(
    path: str, body: bytes = b"", headers: dict[str, str] | None = None, method: str = ""
) -> bytes:
    """A whole request; a POST of JSON if it has a body."""
    own = {"host": "front"}
    if body:
        own |= {"content-type": "application/json", "content-length": str(len(body))}
    lines = [f"{method or ('POST' if body else 'GET')} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in (own | (headers or {})).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
