"""Bytes that are no request of HTTP, or one that two servers would read as two."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

import pytest

from .arena import Arena
from .forms import COMPLETIONS
from .http1 import connect, grouped, head, post, said, statuses
from .server import ServerProcess

pytestmark = pytest.mark.attacks

CALLER = "attacker"
BODY = b'{"model": "mal-none", "prompt": "x"}'
SECRET = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
"""What would be smuggled behind another request."""
CHUNKED = {"transfer-encoding": "chunked", "content-type": "application/json"}


def sized(value: object, body: bytes = BODY, **more: object) -> bytes:
    headers = {"content-type": "application/json", "content-length": value, **more}
    return head("POST", COMPLETIONS, headers, CALLER) + body


def chunked(body: bytes, **headers: object) -> bytes:
    return head("POST", COMPLETIONS, CHUNKED | headers, CALLER) + body


def lines(*extra: bytes) -> bytes:
    """A request with lines as they are."""
    begun = head("POST", COMPLETIONS, {"content-type": "application/json"}, CALLER)
    return begun[:-2] + b"".join(extra) + b"\r\n" + BODY


LENGTH = b"content-length: %d\r\n" % len(BODY)
SMUGGLED = {
    "a length and chunks": sized(5, b"0\r\n\r\n" + SECRET, **{"transfer-encoding": "chunked"}),
    "chunks and a length": chunked(b"0\r\n\r\n" + SECRET, **{"content-length": 3}),
    "two lengths": lines(LENGTH, b"content-length: 0\r\n") + SECRET,
    "a length of a sum": sized(f"+{len(BODY)}") + SECRET,
    "a length below 0": sized(-1) + SECRET,
    "a length in base 16": sized(hex(len(BODY))) + SECRET,
    "a length twice in a line": sized(f"{len(BODY)}, {len(BODY) + 5}") + SECRET,
    "a length that is none": sized("") + SECRET,
    "a length of 30 digits": sized("9" * 30) + SECRET,
    "a length of 4000 digits": sized("9" * 4000) + SECRET,
    "a length in other digits": sized("\u0661") + SECRET,
    "a length with a space before its colon": lines(b"content-length : 3\r\n") + SECRET,
    "chunks that are not the last coding": lines(b"transfer-encoding: chunked, identity\r\n"),
    "chunks by another name": lines(b"transfer-encoding: xchunked\r\n"),
    "chunks twice": lines(b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
    "chunks with a tab": lines(b"transfer-encoding:\tchunked\x0b\r\n"),
    "a header that goes on": lines(b"x: a\r\n transfer-encoding: chunked\r\n", LENGTH),
    "a header without a colon": lines(b"nothing\r\n", LENGTH),
    "a header without a name": lines(b": nothing\r\n", LENGTH),
    "a zero in a header": lines(b"x: a\0b\r\n", LENGTH),
    "a bare return in a header": lines(b"x: a\rb: c\r\n", LENGTH),
    "a name of other letters": lines("tränsfer: x\r\n".encode(), LENGTH),
    "a chunk of a negative size": chunked(b"-1\r\n" + BODY),
    "a chunk of a size that overflows": chunked(b"f" * 17 + b"\r\n" + BODY),
    "a chunk of a size of 1 MB": chunked(b"0" * (1 << 20) + b"1\r\nx\r\n0\r\n\r\n"),
    "a chunk with 1 MB beside its size": chunked(b"1;" + b"x" * (1 << 20) + b"\r\nx\r\n0\r\n\r\n"),
    "a chunk longer than it says": chunked(b"1\r\nabc\r\n0\r\n\r\n"),
    "trailers of 1 MB": chunked(b"1\r\n{\r\n0\r\n" + b"x: y\r\n" * 200_000 + b"\r\n"),
    "no host": b"POST /v1/completions HTTP/1.1\r\n\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "another version": b"GET /v1/models HTTP/3.7\r\nhost: x\r\n\r\n",
    "a method of 100 KB": b"G" * 100_000 + b" / HTTP/1.1\r\n\r\n",
    "a method that is none": b"\x7f\xff\xfe / HTTP/1.1\r\n\r\n",
    "a path of 100 KB": head("GET", "/" + "a" * 100_000, {}, CALLER),
    "a header of 1 MB": head("GET", "/v1/models", {"x": "a" * (1 << 20)}, CALLER),
    "10000 headers": head("GET", "/v1/models", {f"x{i}": i for i in range(10_000)}, CALLER),
    "lines that are empty": b"\r\n" * 100_000,
    "zeros": b"\0" * 100_000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 200,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 3000,
}
REFUSED = {400, 401, 404, 405, 408, 411, 413, 414, 415, 431, 501, 505}


GROUPS = grouped(SMUGGLED)


@pytest.mark.parametrize("group", GROUPS)
def test_requests_that_are_none(arena: Arena, group: str) -> None:
    """One refusal at most, and the connection's end: nothing behind it is read as a request."""
    requests = GROUPS[group]

    def attack(server: ServerProcess) -> str:
        seen = set()
        for name, answer in zip(requests, answers(server, requests), strict=True):
            codes = statuses(answer)
            assert len(codes) <= 1, f"{name}: {codes}, a second request was read"
            assert REFUSED.issuperset(codes), f"{name}: {codes} is no refusal"
            seen.update(codes or [0])
        return f"answers: {sorted(seen)}"

    arena.withstand(f"HTTP, no request: {group}", attack)


def answers(server: ServerProcess, requests: Mapping[str, bytes]) -> list[bytes]:
    return said(server.http_port, [[one] for one in requests.values()])


def upgraded(value: str, **headers: str) -> bytes:
    own = {"upgrade": value, "connection": "Upgrade, HTTP2-Settings"}
    return head("GET", "/v1/models", own | headers, CALLER)


ODD = {
    "h2c": (upgraded("h2c", **{"http2-settings": "AAMAAABkAAQAAP__"}), {200}),
    "websocket": (
        upgraded("websocket", **{"sec-websocket-key": "eA==", "sec-websocket-version": "13"}),
        {200, 400, 403, 404, 426, 501},
    ),
    "websocket at a path of its own": (
        head("GET", "/ws", {"upgrade": "websocket", "connection": "upgrade"}, CALLER),
        {400, 403, 404, 426, 501},
    ),
    "CONNECT": (head("CONNECT", "169.254.169.254:80", {}, CALLER), {400, 404, 405, 501}),
    "TRACE": (head("TRACE", "/v1/models", {"x-secret": "seen"}, CALLER), {400, 404, 405, 501}),
    "OPTIONS": (head("OPTIONS", "*", {}, CALLER), {400, 404, 405}),
    "another server's address": (
        head("GET", "http://169.254.169.254/latest", {}, CALLER),
        {400, 404},
    ),
    "its own address": (head("GET", "http://localhost/v1/models", {}, CALLER), {200, 400, 404}),
    "a body of a page that has none": (
        head("GET", "/v1/models", {"content-length": 9}, CALLER) + b"GET / HTT",
        {200, 400, 405, 413},
    ),
    "a length of 4 GB that is expected": (
        sized(1 << 32, b"", expect="100-continue"),
        {413},
    ),
    "something else that is expected": (sized(len(BODY), expect="nothing"), {404, 417}),
    "HEAD": (head("HEAD", "/v1/models", {}, CALLER), {200}),
    "a path with a zero": (head("GET", "/v1/models%00", {}, CALLER), {404}),
    "a path that goes up": (head("GET", "/v1/../metrics/../../etc/passwd", {}, CALLER), {404}),
    "a path that goes up, escaped": (head("GET", "/%2e%2e/%2e%2e/etc/passwd", {}, CALLER), {404}),
    "a path of two slashes": (head("GET", "//v1/models", {}, CALLER), {404}),
    "a path with bytes that are no text": (head("GET", "/%ff%fe%80", {}, CALLER), {404}),
    "a query of 60 KB": (
        head("GET", f"/v1/models?{'a=b&' * 15_000}", {}, CALLER),
        {200, 414, 431, 400},
    ),
    "an id that forges a header": (
        head("GET", "/v1/models", {"x-request-id": "a%0d%0aset-cookie:1"}, CALLER),
        {200, 400},
    ),
    "an id of 30 KB": (
        head("GET", "/v1/models", {"x-request-id": "a" * 30_000}, CALLER),
        {200, 400, 431},
    ),
}


def test_requests_that_are_odd(arena: Arena) -> None:
    def attack(server: ServerProcess) -> str:
        kept = {name: request for name, (request, _) in ODD.items()}
        closing = {n: r.replace(b"\r\n", b"\r\nconnection: close\r\n", 1) for n, r in kept.items()}
        for requests in (kept, closing):
            for name, answer in zip(requests, answers(server, requests), strict=True):
                codes = statuses(answer)
                assert len(codes) == 1, f"{name}: {codes} for one request"
                assert codes[0] in ODD[name][1], f"{name}: {codes[0]}"
                for secret in (b"101 Switching", b"x-secret", b"\r\nset-cookie"):
                    assert secret not in answer, name
        return f"{len(ODD)} requests"

    arena.withstand("HTTP, odd requests", attack)


def endless(kind: str) -> Iterator[bytes]:
    """A request without an end: 64 MB of it, unless the server has had enough."""
    part = b"".join(b"x%d: %s\r\n" % (i, b"y" * 100) for i in range(500))
    if kind == "headers":
        yield head("POST", COMPLETIONS, {}, CALLER)[:-2]
    elif kind == "a header":
        yield head("POST", COMPLETIONS, {}, CALLER)[:-2] + b"x: "
        part = b"y" * 65536
    elif kind == "chunks":
        yield chunked(b"")
        part = b"10000\r\n" + b" " * 65536 + b"\r\n"
    elif kind == "chunks of a byte":
        yield chunked(b"")
        part = b"1\r\n \r\n" * 10_000
    else:
        yield chunked(b"1\r\n \r\n0\r\n")
    for _ in range((64 << 20) // len(part)):
        yield part


@pytest.mark.parametrize("kind", ["headers", "a header", "chunks", "chunks of a byte", "trailers"])
def test_requests_without_an_end(arena: Arena, kind: str) -> None:
    """Ended after what a request may have, and none of it is kept."""

    def attack(server: ServerProcess) -> str:
        sent = 0

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for part in endless(kind):
                yield part
                sent += len(part)

        (answer,) = said(server.http_port, [counted()])
        codes = statuses(answer)
        assert sent < 32 << 20, "all was taken"
        assert len(codes) <= 1, codes
        assert REFUSED.issuperset(codes), codes
        return f"{codes or 'closed'} after {sent >> 10} KB"

    arena.withstand(f"HTTP, {kind} without an end", attack)


def test_requests_behind_each_other(arena: Arena) -> None:
    """Answered one after the other, or not: unread answers keep nothing going."""
    ask = post(COMPLETIONS, b'{"model":"","prompt":"x","max_tokens":200,"ignore_eos":true}', CALLER)
    pages = head("GET", "/v1/models", {}, CALLER)

    def attack(server: ServerProcess) -> str:
        opened = [connect(server.http_port, 4096) for _ in range(20)]
        for i, one in enumerate(opened):
            one.setblocking(False)
            with suppress(OSError):
                one.send((ask if i % 2 else pages) * 300)
        time.sleep(1)
        running = server.load().running
        for one in opened:
            one.close()
        assert running <= 2 + 10, f"{running} requests run for 10 connections"
        return "20 connections with 300 requests each"

    arena.withstand("HTTP, pipelines of 300 requests", attack)
