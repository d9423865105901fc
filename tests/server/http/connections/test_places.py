"""Places for connections: how long each may be held, by whom, and who goes when one more comes."""

from __future__ import annotations

import asyncio

import pytest

from server.auth.tokens import Caller
from server.http.connections import places
from server.http.connections.places import MOST_S, Phase
from server.http.errors import HttpError
from server.http.shares import CallShares

from ....support.raw_http import raw, request
from ..conftest import MakeFront


@pytest.mark.parametrize(
    ("phase", "sent", "status"),
    [
        (Phase.NEW, b"", None),
        (Phase.HEAD, b"GET /hello HT", 408),
        (Phase.HEAD, b"GET /hello HTTP/1.1\r\na: b\r\n", 408),
        (Phase.BODY, request("/echo", b"{}")[:-1], 408),
        (Phase.IDLE, request("/hello"), 200),
        (Phase.REST, request("/nowhere", b"{}")[:-1], 404),
    ],
    ids=["new", "line", "headers", "body", "idle", "rest"],
)
async def test_slow_clients(
    make_front: MakeFront,
    monkeypatch: pytest.MonkeyPatch,
    phase: Phase,
    sent: bytes,
    status: int | None,
) -> None:
    for ended in (phase, Phase.CLOSING):
        monkeypatch.setitem(places.MOST_S, ended, 0.2)
    async with make_front() as front, raw(front.url) as client:
        await client.send(sent)
        if status:
            assert (await client.answer()).status == status
        assert await client.ended() == b""
        async with asyncio.timeout(20):
            while len(front.server._places):
                await asyncio.sleep(0.01)


async def test_bytes_between_requests_keep_no_connection(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(places.MOST_S, Phase.IDLE, 0.5)
    async with make_front() as front, raw(front.url) as client:
        await client.send(request("/hello"))
        await client.answer()

        async def nudge() -> None:
            while True:
                await client.send(b"\r\n")
                await asyncio.sleep(0.1)

        nudging = asyncio.create_task(nudge())
        assert await client.ended() == b""
        nudging.cancel()


async def test_a_client_that_does_not_read_is_sent_away(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(places.MOST_S, Phase.UNREAD, 0.3)
    async with make_front() as front, raw(front.url) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(request("/flood"))
        await asyncio.wait_for(front.cancelled.wait(), 20)


async def test_one_connection_more_ends_the_oldest_that_waits(make_front: MakeFront) -> None:
    async with make_front() as front:
        front.server._places._most = 3
        async with raw(front.url) as busy, raw(front.url) as sending, raw(front.url) as idle:
            await busy.send(request("/slow"))
            await sending.send(request("/echo", b"{}")[:-1])
            await idle.send(request("/hello"))
            await idle.answer()
            await asyncio.wait_for(front.slow.wait(), 20)
            async with raw(front.url) as fourth:
                await fourth.send(request("/slow"))
                assert await idle.ended() == b""
                while front.app.open < 3:
                    await asyncio.sleep(0.01)
                async with raw(front.url) as fifth:
                    await fifth.send(request("/slow"))
                    assert await sending.ended() == b""
                    while [s for _, s in front.ended].count(499) < 1 or front.app.open < 3:
                        await asyncio.sleep(0.01)
                    async with raw(front.url) as sixth:
                        assert (await sixth.answer()).status == 503
                        assert await sixth.ended() == b""
        assert front.refused == [503]


async def test_who_does_not_read_makes_room(make_front: MakeFront) -> None:
    async with make_front() as front, raw(front.url) as unread:
        front.server._places._most = 1
        unread.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await unread.send(request("/flood"))
        async with asyncio.timeout(20):
            while not front.server._places._unread:
                await asyncio.sleep(0.01)
        async with raw(front.url) as other:
            await other.send(request("/hello"))
            assert (await other.answer()).status == 200
        await asyncio.wait_for(front.cancelled.wait(), 20)


def test_a_caller_has_half_of_the_places() -> None:
    shares = CallShares(2)
    first, second = (Caller(name=n, token_sha256="0" * 64, adapters=()) for n in ("a", "b"))
    for _ in range(2):
        shares.take(first)
    with pytest.raises(HttpError, match="2 calls at once"):
        shares.take(first)
    shares.take(second)
    shares.give_back(first)
    shares.take(first)


def test_each_phase_but_the_servers_own_has_an_end() -> None:
    assert set(Phase) - MOST_S.keys() == {Phase.ANSWER}
