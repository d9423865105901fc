"""TLS and mutual TLS of the HTTP port: the files of gRPC's, and handshakes that take forever."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server import tls
from server.http.connections import places
from server.http.connections.places import Phase
from server.threads import Threads
from server.tls import ServerContexts

from ....support.certificates import Authority, Pair
from ....support.raw_http import RawConnection, raw, request
from ....support.servers import free_port, make_settings, running
from ..conftest import Front, MakeFront


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "stranger")


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


def trusting(authority: Authority, client: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.cert))
    if client:
        context.load_cert_chain(client.cert, client.key)
    return context


async def hello(front: Front, context: ssl.SSLContext) -> int:
    async with raw(front.url, context) as client:
        await client.send(request("/hello"))
        return (await client.answer()).status


async def test_calls_over_tls(
    make_front: MakeFront, authority: Authority, stranger: Authority, threads: Threads
) -> None:
    pair = authority.issue("server")
    contexts = ServerContexts(pair.cert, pair.key, None, threads.reading)
    async with make_front(tls=contexts.newest) as front:
        assert await hello(front, trusting(authority)) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await hello(front, trusting(stranger))
        async with raw(front.url) as plain:
            await plain.send(request("/hello"))
            assert b"200" not in await plain.ended()
        async with raw(front.url, trusting(authority)) as client:
            body = json.dumps({"a": "b" * 150_000}).encode()
            await client.send(request("/echo", body) + request("/hello"))
            assert (await client.answer()).json()["read"] == 150_009
            assert (await client.answer()).status == 200
            await client.send(request("/slow"))
            await asyncio.wait_for(front.slow.wait(), 20)
        await asyncio.wait_for(front.cancelled.wait(), 20)
        await none_left(front)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_log_says_where_to_call(
    tiny_base: Path, authority: Authority, scheme: str
) -> None:
    pair = authority.issue("server")
    files: dict[str, Any] = (
        {"tls_cert": pair.cert, "tls_key": pair.key} if scheme == "https" else {}
    )
    settings = make_settings(tiny_base, http_port=free_port(), **files)
    with capture_logs() as logs:
        async with running(settings) as served:
            (line,) = [line for line in logs if line["event"] == "listening"]
            assert line["address"] == served.target
            assert line["http"] == f"{scheme}://127.0.0.1:{settings.http_port}"


async def none_left(front: Front) -> None:
    while front.server.open_connections:
        await asyncio.sleep(0.01)


async def test_clients_must_show_a_certificate(
    make_front: MakeFront, authority: Authority, stranger: Authority, threads: Threads
) -> None:
    pair = authority.issue("server")
    contexts = ServerContexts(pair.cert, pair.key, authority.cert, threads.reading)
    async with make_front(tls=contexts.newest) as front:
        assert await hello(front, trusting(authority, authority.issue("client"))) == 200
        for client in (None, stranger.issue("intruder")):
            with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
                await hello(front, trusting(authority, client))
        await none_left(front)


async def test_renewed_certificates_need_no_restart(
    make_front: MakeFront,
    authority: Authority,
    stranger: Authority,
    threads: Threads,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls, "_LOOK_EVERY_S", 0)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(pair: Pair) -> None:
        cert.write_bytes(pair.cert.read_bytes())
        key.write_bytes(pair.key.read_bytes())

    install(authority.issue("server"))
    contexts = ServerContexts(cert, key, None, threads.reading)
    async with make_front(tls=contexts.newest) as front:
        assert await hello(front, trusting(authority)) == 200
        key.unlink()
        assert await hello(front, trusting(authority)) == 200
        install(stranger.issue("renewed"))
        while not await _trusts(front, stranger):
            await asyncio.sleep(0.01)
        assert not await _trusts(front, authority)


async def _trusts(front: Front, authority: Authority) -> bool:
    try:
        return await hello(front, trusting(authority)) == 200
    except ssl.SSLCertVerificationError:
        return False


async def test_a_handshake_that_does_not_end(
    make_front: MakeFront,
    authority: Authority,
    threads: Threads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(places.MOST_S, Phase.HANDSHAKE, 0.3)
    pair = authority.issue("server")
    contexts = ServerContexts(pair.cert, pair.key, None, threads.reading)
    async with make_front(tls=contexts.newest) as front, raw(front.url) as silent:
        async with raw(front.url) as half:
            await half.send(b"\x16\x03\x01\x02\x00\x01")
            assert front.server.open_connections == 2
            assert await hello(front, trusting(authority)) == 200
            assert await half.ended() == b""
            assert await silent.ended() == b""
        await none_left(front)


async def test_handshakes_take_places(
    make_front: MakeFront, authority: Authority, threads: Threads
) -> None:
    pair = authority.issue("server")
    contexts = ServerContexts(pair.cert, pair.key, None, threads.reading)
    async with make_front(tls=contexts.newest) as front:
        front.server._places._most = 2
        async with raw(front.url) as first, raw(front.url) as second:
            assert isinstance(second, RawConnection)
            assert await hello(front, trusting(authority)) == 200
            assert await first.ended() == b""
