"""Stops over HTTP: clients are told to go, what runs finishes, and what is idle is left alone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.http.connections import drain

from ....support.certificates import Authority
from ....support.engines import slow_down
from ....support.servers import Harness, free_port, make_settings, running

PAGE = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"


class Client:
    """One connection, as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def get(self) -> bytes:
        """Status line and headers of the page of models."""
        self.writer.write(PAGE)
        return await self.head()

    async def head(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            (line for line in head.split(b"\r\n") if line.startswith(b"content-length: ")), b""
        )
        if length:
            await self.reader.readexactly(int(length.split()[1]))
        return head

    async def post(self, **fields: Any) -> None:
        body = json.dumps({"model": "", "prompt": "hi", "ignore_eos": True} | fields).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n" + head.encode() + body)

    async def ended(self) -> bytes:
        return await self.reader.read()


@asynccontextmanager
async def connected(served: Harness) -> AsyncIterator[Client]:
    assert served.app.http.server is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", served.app.http.server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def settings(base: Path, **fields: Any) -> Any:
    return make_settings(base, http_port=free_port(), **fields)


def is_told(head: bytes) -> bool:
    assert head.startswith(b"HTTP/1.1 200 "), head
    return b"connection: close" in head


async def test_the_port_opens_when_it_can_serve(tiny_base: Path) -> None:
    async with running(settings(tiny_base), load=False) as served:
        with pytest.raises(ConnectionRefusedError):
            async with connected(served):
                pass
        assert served.app.http.server is not None
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", served.app.http.server.port))  # it is taken already


async def test_who_comes_during_the_delay_is_served_and_told_to_go(tiny_base: Path) -> None:
    async with running(settings(tiny_base, drain_delay_s=600)) as served:
        async with connected(served) as old:
            assert not is_told(await old.get())
            assert not is_told(await old.get())
            stopping = asyncio.ensure_future(served.app.stop())
            await asyncio.sleep(0)
            assert is_told(await old.get())
            assert await old.ended() == b""
            async with connected(served) as new:
                assert is_told(await new.get())
        stopping.cancel()
        served.app.settings.drain_delay_s = 0


async def test_a_stream_ends_and_its_connection_serves_on(tiny_base: Path) -> None:
    async with running(settings(tiny_base, drain_s=60)) as served, connected(served) as client:
        slow_down(served.app.engine)
        await client.post(max_tokens=50, stream=True)
        assert not is_told(await client.head())
        stopping = asyncio.ensure_future(served.app.stop())
        assert b"[DONE]" in await client.reader.readuntil(b"\r\n0\r\n\r\n")
        assert not stopping.done()
        assert is_told(await client.get())  # its client has not been told before
        await stopping


async def test_an_idle_connection_is_left_alone_for_a_while(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "_SILENT_S", 0.5)
    async with running(settings(tiny_base, drain_s=600)) as served, connected(served) as client:
        await client.get()
        assert served.app.http.server is not None
        (connection,) = served.app.http.server.connections
        connection.end_if_idle(60)
        assert not connection.transport.is_closing()
        await served.app.stop()
        assert await client.ended() == b""


async def test_a_request_that_nobody_has_read_yet_keeps_its_connection(tiny_base: Path) -> None:
    async with running(settings(tiny_base)) as served, connected(served) as client:
        await client.get()
        assert served.app.http.server is not None
        (connection,) = served.app.http.server.connections
        raw = client.writer.get_extra_info("socket")
        os.write(raw.fileno(), PAGE)  # in the kernel; the event loop has had no turn
        connection.end_if_idle(0)
        assert not is_told(await client.head())
        connection.end_if_idle(0)
        assert await client.ended() == b""


async def test_a_request_that_is_being_sent_keeps_its_connection(tiny_base: Path) -> None:
    async with running(settings(tiny_base)) as served, connected(served) as client:
        assert served.app.http.server is not None
        client.writer.write(PAGE[:20])
        while not (found := served.app.http.server.connections) or not found[0].scope:
            await asyncio.sleep(0.01)
        found[0].end_if_idle(0)
        client.writer.write(PAGE[20:])
        assert not is_told(await client.head())


async def test_connections_end_at_their_age_with_an_answer(tiny_base: Path) -> None:
    made = settings(tiny_base, max_connection_age_s=0.2)
    async with running(made) as served, connected(served) as client:
        while not is_told(await client.get()):
            await asyncio.sleep(0.01)
        assert await client.ended() == b""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_does_not_finish_is_told_so(tiny_base: Path, stream: bool) -> None:
    async with running(settings(tiny_base, drain_s=0.2)) as served, connected(served) as client:
        slow_down(served.app.engine, seconds=0.1)
        await client.post(max_tokens=400, stream=stream)
        while not served.app.engine.stats().running:
            await asyncio.sleep(0.01)
        await served.app.stop()
        answer = await client.ended()
    status, _, rest = answer.partition(b"\r\n")
    assert status == (b"HTTP/1.1 200 OK" if stream else b"HTTP/1.1 503 Service Unavailable")
    lines = rest.replace(b"data: ", b"").split(b"\r\n")
    (error,) = [json.loads(line) for line in lines if line.startswith(b'{"error"')]
    assert error["error"]["type"] == "service_unavailable_error"


@pytest.mark.parametrize(
    "tls", [pytest.param(False, id="plain", marks=pytest.mark.slow), pytest.param(True, id="tls")]
)
async def test_no_call_that_was_accepted_fails(tiny_base: Path, tmp_path: Path, tls: bool) -> None:
    """Clients that try nothing again, until nobody listens any more."""
    ends: Counter[str] = Counter()
    pair = Authority(tmp_path, "ca").issue("server") if tls else None
    files = {"tls_cert": pair.cert, "tls_key": pair.key} if pair else {}
    trust = ssl.create_default_context(cafile=tmp_path / "ca.pem") if tls else False

    async def caller(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60, verify=trust) as client:
            while not ends["refused"] or not stopping.done():
                try:
                    answer = await client.post(
                        "/v1/completions", json={"model": "", "prompt": "hi", "max_tokens": 1}
                    )
                except httpx.ConnectError:
                    ends["refused"] += 1
                    return
                ends[str(answer.status_code)] += 1

    async with running(settings(tiny_base, drain_s=60, drain_delay_s=0.3, **files)) as served:
        assert served.app.http.server is not None
        url = f"http{'s' if tls else ''}://localhost:{served.app.http.server.port}"
        callers = [asyncio.ensure_future(caller(url)) for _ in range(16)]
        while ends["200"] < 32:
            await asyncio.sleep(0.01)
        stopping = asyncio.ensure_future(served.app.stop())
        await asyncio.gather(*callers)
        await stopping
    assert set(ends) == {"200", "refused"}
    assert ends["refused"] == 16
