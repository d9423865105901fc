"""Connections to the HTTP port: what clients may send, and what they find of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
from structlog.testing import capture_logs

from server.http.connections import places
from server.http.connections.places import Phase

from ....support.raw_http import raw, request
from ..conftest import MAX_BYTES, MakeFront


async def test_calls_on_one_connection(make_front: MakeFront) -> None:
    async with make_front() as front, raw(front.url) as client:
        for number in range(3):
            await client.send(request(f"/hello?{number}"))
            answer = await client.answer()
            assert (answer.status, answer.json()) == (200, {"hello": str(number)})
            assert answer.headers["x-request-id"]
        body = json.dumps({"a": "b" * 1000}).encode()
        await client.send(request("/echo", body, {"x-request-id": "mine"}))
        assert (await client.answer()).json() == {"read": 1009, "id": "mine"}
        assert front.ended == [("GET /hello", 200)] * 3 + [("POST /echo", 200)]


async def test_requests_ahead_of_answers(make_front: MakeFront) -> None:
    async with make_front() as front, raw(front.url) as client:
        await client.send(b"".join(request(f"/hello?{number}") for number in range(8)))
        assert [(await client.answer()).json()["hello"] for _ in range(8)] == list("01234567")
        await client.send(request("/slow") + request("/hello") * 30)
        assert await client.ended() == b""
        await asyncio.wait_for(front.cancelled.wait(), 20)
        assert front.refused == [400]


async def test_requests_are_read_while_they_may_wait(make_front: MakeFront) -> None:
    async with make_front() as front, raw(front.url) as client:
        await client.send(request("/slow"))
        await asyncio.wait_for(front.slow.wait(), 20)
        (connection,) = front.server.connections
        async with asyncio.timeout(20):
            for number in range(8):
                assert not connection.flow.read_paused
                await client.send(request("/hello"))
                while len(connection.pipeline) == number:
                    await asyncio.sleep(0.01)
        assert connection.flow.read_paused


async def test_no_other_request_gets_the_answer_of_what_is_none(make_front: MakeFront) -> None:
    async with make_front() as front, raw(front.url) as client:
        await client.send(request("/slow") + b"nonsense")
        assert await client.ended() == b""
        await asyncio.wait_for(front.cancelled.wait(), 20)
        assert front.refused == [400]


async def test_a_reset_is_nothing_to_log(
    make_front: MakeFront, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_front() as front, raw(front.url) as client:
        await client.send(request("/slow") * 3)
        await asyncio.wait_for(front.slow.wait(), 20)
        client.writer.transport.abort()
        await asyncio.wait_for(front.cancelled.wait(), 20)
        await front.server.stop()
    assert (caplog.records, front.ended) == ([], [("GET /slow", 499)])


NO_REQUESTS: dict[str, tuple[bytes, int]] = {
    "not-http": (b"\x16\x03\x01nonsense\r\n\r\n", 400),
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "connect": (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "url": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
    "endless-url": (b"GET /" + b"a" * 9000, 414),
    "many-headers": (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 200 + b"\r\n", 431),
    "large-header": (b"GET / HTTP/1.1\r\na: " + b"b" * 70_000 + b"\r\n\r\n", 431),
    "endless-header": (b"GET / HTTP/1.1\r\na: " + b"b" * 400_000, 431),
    "two-lengths": (
        b"POST /echo HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        400,
    ),
    "length-and-chunks": (
        b"POST /echo HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
    ),
    "many-chunks": (
        request("/echo", headers={"transfer-encoding": "chunked"}, method="POST")
        + b"1\r\na\r\n" * 5000,
        413,
    ),
    "many-trailers": (
        request("/echo", headers={"transfer-encoding": "chunked"}, method="POST")
        + b"2\r\n{}\r\n0\r\n"
        + b"a:\r\n" * 200
        + b"\r\n",
        431,
    ),
}


@pytest.mark.parametrize(("sent", "status"), NO_REQUESTS.values(), ids=NO_REQUESTS)
async def test_what_is_no_request(make_front: MakeFront, sent: bytes, status: int) -> None:
    async with make_front() as front, raw(front.url) as client:
        await client.send(sent)
        answer = await client.answer()
        assert answer.status == status
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert answer.headers["connection"] == "close"
        assert await client.ended() == b""
        assert front.refused == [status]


async def test_an_endless_chunk_line_is_given_up(make_front: MakeFront) -> None:
    async with make_front() as front, raw(front.url) as client:
        headers = {"transfer-encoding": "chunked", "content-type": "application/json"}
        await client.send(request("/echo", headers=headers, method="POST") + b"2;")
        for _ in range(20):
            await client.send(b"a" * 60_000)
        await client.ended()
        assert front.refused == [413]


async def test_a_large_body_is_refused_and_the_connection_serves_on(make_front: MakeFront) -> None:
    async with make_front() as front, raw(front.url) as client:
        await client.send(request("/echo", b"x" * (MAX_BYTES + 1)))
        assert (await client.answer()).status == 413
        await client.send(request("/hello?on"))
        assert (await client.answer()).json() == {"hello": "on"}
        assert front.refused == []


JSON = {"content-type": "application/json"}
LARGE: dict[str, tuple[str, int, int, dict[str, str], int]] = {
    "announced": ("/echo", 1, 16 << 20, JSON, 413),
    "last": ("/echo", 1, 16 << 20, JSON | {"connection": "close"}, 413),
    "elsewhere": ("/nowhere", 1, 16 << 20, JSON, 404),
    "in-chunks": ("/echo", 256, 1 << 16, JSON, 413),
    "many-chunks": ("/echo", 4200, 10, JSON, 413),
    "many-chunks-elsewhere": ("/nowhere", 4200, 10, JSON, 404),
}


@pytest.mark.parametrize(("path", "pieces", "size", "headers", "status"), LARGE.values(), ids=LARGE)
async def test_a_client_that_sends_reads_its_answer(
    make_front: MakeFront, path: str, pieces: int, size: int, headers: dict[str, str], status: int
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b" " * size

    body = chunks() if pieces > 1 else b" " * size
    async with make_front(max_bytes=4 << 20) as front, httpx.AsyncClient() as client:
        answer = await client.post(front.url + path, content=body, headers=headers)
        assert answer.status_code == status


@pytest.mark.parametrize(("seconds", "size"), [(0.3, 10), (600, 10_000)], ids=["time", "bytes"])
async def test_who_sends_without_end_is_sent_away(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch, seconds: float, size: int
) -> None:
    monkeypatch.setitem(places.MOST_S, Phase.CLOSING, seconds)
    async with make_front() as front, raw(front.url) as client:
        await client.send(b"nonsense")
        assert (await client.answer()).status == 400

        async def send() -> None:
            while True:
                client.writer.write(b"x" * size)
                await asyncio.sleep(0.01)

        sending = asyncio.create_task(send())
        async with asyncio.timeout(20):
            while len(front.server._places):
                await asyncio.sleep(0.01)
        sending.cancel()


async def test_a_client_that_waits_before_its_body(make_front: MakeFront) -> None:
    headers = {"content-type": "application/json", "expect": "100-continue"}
    async with make_front() as front, raw(front.url) as client:
        head = request("/echo", headers=headers | {"content-length": "2"}, method="POST")
        await client.send(head)
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"{}")
        assert (await client.answer()).status == 200
        large = headers | {"content-length": str(MAX_BYTES + 1)}
        await client.send(request("/echo", headers=large, method="POST"))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await client.ended() == b""


async def test_an_offer_of_http2_is_passed_over(make_front: MakeFront) -> None:
    offer = {
        "connection": "upgrade, http2-settings",
        "upgrade": "h2c",
        "http2-settings": "AAMAAABk",
    }
    async with make_front() as front:
        for pieces in ([b'{"a":1}'], [b'{"a"', b":1}"]):
            async with raw(front.url) as client:
                headers = offer | {"content-length": "7", "content-type": "application/json"}
                head = request("/echo", headers=headers, method="POST")
                await client.send(head + pieces[0])
                for piece in pieces[1:]:
                    await asyncio.sleep(0.05)
                    await client.send(piece)
                assert (await client.answer()).json()["read"] == 8
        async with raw(front.url) as client:
            await client.send(request("/hello?x", headers=offer) * 2)
            assert (await client.answer()).json() == {"hello": "x"}
            assert await client.ended() == b""


async def test_the_end_of_a_client_ends_its_call(make_front: MakeFront) -> None:
    async with make_front() as front:
        async with raw(front.url) as client:
            await client.send(request("/slow"))
            await asyncio.wait_for(front.slow.wait(), 20)
            assert front.app.open == 1
        await asyncio.wait_for(front.cancelled.wait(), 20)
        await asyncio.sleep(0)
        assert (front.app.open, front.ended) == (0, [("GET /slow", 499)])


@pytest.mark.parametrize(
    "sent",
    [[request("/slow", b" " * 150_000)], [request("/slow", b"{}")] * 3, [request("/slow")] * 3],
    ids=["large", "ahead", "ahead-without-bodies"],
)
async def test_whoever_goes_is_seen_to_go(make_front: MakeFront, sent: list[bytes]) -> None:
    async with make_front() as front, raw(front.url) as client:
        for one in sent:
            await client.send(one)
            await asyncio.wait_for(front.slow.wait(), 20)
        client.writer.close()
        await asyncio.wait_for(front.cancelled.wait(), 20)


async def test_a_body_too_large_is_refused_once(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(places.MOST_S, Phase.REST, 0.2)
    async with make_front() as front, raw(front.url) as client:
        headers = {"transfer-encoding": "chunked", "content-type": "application/json"}
        await client.send(request("/echo", headers=headers, method="POST"))
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        with suppress(OSError):
            for _ in range(20):
                await client.send(chunk)
        assert (await client.ended()).count(b"HTTP/1.1 413") <= 1


async def test_a_stream_that_fails_ends_its_connection(make_front: MakeFront) -> None:
    async with make_front() as front, raw(front.url) as client:
        with capture_logs() as lines:
            await client.send(request("/broken"))
            assert (await client.ended()).endswith(b"data: one\n\n\r\n")
        assert [line["event"] for line in lines] == ["call failed"]
        assert front.ended == [("GET /broken", 500)]
