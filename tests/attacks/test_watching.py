"""Watching and talking: health, metrics, lists, floods, connections that say nothing, readers that do not read."""

from __future__ import annotations

import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import adapters_pb2, server_pb2

from ..support.processes import wait_until
from ..support.tokens import token_of
from . import http2
from .arena import Arena, expect
from .calls import asked
from .fronts import Front, both, both_http_slow
from .server import SERVING, ServerProcess
from .sockets import connections, is_closed
from .wire import GENERATE, STREAM

pytestmark = pytest.mark.attacks

SECONDS = 2
"""How long nothing is read."""
FLOOD_S = 1
"""How long a flood lasts."""


def watched(server: ServerProcess, service: str = "") -> int:
    """The first answer to somebody else's Watch."""
    with server.channel() as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return next(health_pb2_grpc.HealthStub(channel).Watch(request, timeout=10)).status


@pytest.mark.parametrize("window", [0, 1, 16])
def test_watches_without_room_to_write(arena: Arena, window: int) -> None:
    def attack(server: ServerProcess) -> str:
        with ExitStack() as stack:
            for service in ("live", "", "loramux.v1.Inference", "nobody"):
                message = http2.watch_message(service)
                stack.enter_context(
                    http2.calls_without_window(
                        server.target, message=message, streams=20, window=window
                    )
                )
            time.sleep(0.5)
            assert watched(server) == watched(server, "live") == SERVING
        return "80 streams held; another's Watch is answered"

    arena.withstand(f"health: Watch with a window of {window}", attack)


def test_watches_by_the_thousand(arena: Arena) -> None:
    def attack(server: ServerProcess) -> str:
        message = http2.watch_message("x" * 1000)
        with ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(
                    http2.calls_without_window(
                        server.target, message=message, streams=100, window=65535
                    )
                )
            time.sleep(1)
            assert watched(server) == SERVING
        return "1000 streams held"

    arena.withstand("health: 1000 Watch streams", attack)


def test_streams_without_room_to_write(arena: Arena) -> None:
    message = asked(n=16, logprobs=20, max_new_tokens=600, temperature=1.0).protobuf()
    headers = {"authorization": f"Bearer {token_of('attacker')}"}

    def attack(server: ServerProcess) -> str:
        with http2.calls_without_window(server.target, STREAM, message, streams=2, headers=headers):
            time.sleep(SECONDS)
            assert watched(server) == SERVING
        return "2 streams of 16 choices held"

    arena.withstand("streams with a window of 0", attack)


@both
def test_streams_that_are_not_read(arena: Arena, front: Front) -> None:
    request = asked(n=16, logprobs=20, max_new_tokens=600, temperature=1.0)

    def attack(server: ServerProcess) -> str:
        begun = front.leave_unread(arena.attackers, server, request, "attacker", 4, SECONDS).result(
            60
        )
        return f"{begun} streams of 16 choices left unread"

    arena.withstand(front.named("streams that are not read"), attack)


def threads(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def scraped(server: ServerProcess) -> bytes:
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


def test_connections_to_the_metrics_port(arena: Arena) -> None:
    """They take few threads, the port answers beside them, and in the end they are closed."""

    def attack(server: ServerProcess) -> str:
        before = threads(server)
        with (
            connections(server.metrics_port, 75, b"") as silent,
            connections(server.metrics_port, 75, b"GET /metrics HTTP/1.1\r\nx: ") as slow,
        ):
            time.sleep(0.5)
            more = threads(server) - before
            assert more <= 50, f"{more} threads more"
            wait_until(lambda: all(map(is_closed, silent + slow)), 45)
            assert b"loramux_" in scraped(server)
        return f"150 connections, {more} threads more, all closed"

    arena.withstand("metrics: connections that say half, or nothing", attack)


def test_scrapes_that_are_not_read(arena: Arena) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200

    def attack(server: ServerProcess) -> str:
        with connections(server.metrics_port, 30, request):
            time.sleep(SECONDS)
        assert b"loramux_" in scraped(server)
        return "30 connections with 200 requests each, unread"

    arena.withstand("metrics: answers that are not read", attack)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/router"])
def test_floods_of_scrapes(arena: Arena, path: str) -> None:
    """On as many connections as there may be, and without a token: the port asks for none."""

    def attack(server: ServerProcess) -> str:
        target = f"127.0.0.1:{server.metrics_port}"
        counts = arena.attackers.repeat_get(target, path, "", FLOOD_S, connections=30)
        assert counts.keys() == {"OK"}, counts
        return f"{counts} in {FLOOD_S} s"

    arena.withstand(f"metrics, flood: {path}", attack)


SAID = {
    "nothing": b"",
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 40,
    "a frame that never ends": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "3000 pings": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    + (b"\0\0\x08\6\0\0\0\0\0" + b"12345678") * 3_000,
    "3000 settings": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 3_000,
}


@pytest.mark.parametrize("name", SAID)
def test_connections_to_the_port(arena: Arena, name: str) -> None:
    def attack(server: ServerProcess) -> str:
        with connections(server.port, 100, SAID[name]) as opened:
            time.sleep(0.5)
            assert watched(server) == SERVING
        return f"{len(opened)} connections"

    arena.withstand(f"connections that say {name}", attack)


def lists(size: int) -> tuple[str, Any]:
    return "/loramux.v1.Adapters/ListAdapters", adapters_pb2.ListAdaptersRequest(page_size=size)


def nobody() -> tuple[str, Any]:
    request = adapters_pb2.GetAdapterRequest(adapter_id="mal-nobody")
    return "/loramux.v1.Adapters/GetAdapter", request


def declared() -> tuple[str, Any]:
    request = adapters_pb2.ListDeclaredAdaptersRequest()
    return "/loramux.v1.Adapters/ListDeclaredAdapters", request


def info() -> tuple[str, Any]:
    return "/loramux.v1.Server/GetServerInfo", server_pb2.GetServerInfoRequest()


def status() -> tuple[str, Any]:
    return "/loramux.v1.Server/GetStatus", server_pb2.GetStatusRequest()


def check() -> tuple[str, Any]:
    return "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest()


FLOODS: dict[str, tuple[tuple[str, Any], str]] = {
    "ListAdapters, pages of 1": (lists(1), "operator"),
    "ListAdapters, pages of 1000": (lists(1000), "operator"),
    "ListAdapters, of few": (lists(1000), "attacker"),
    "GetServerInfo": (info(), "attacker"),
    "GetStatus": (status(), "attacker"),
    "GetAdapter": (nobody(), "attacker"),
    "ListDeclaredAdapters": (declared(), "attacker"),
    "health": (check(), "attacker"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_small_calls(arena: Arena, name: str) -> None:
    (method, request), caller = FLOODS[name]

    def attack(server: ServerProcess) -> str:
        data = request.SerializeToString()
        counts = arena.attackers.repeat(server.target, method, data, caller, FLOOD_S)
        assert counts.keys() <= {"OK", "NOT_FOUND", "RESOURCE_EXHAUSTED"}, counts
        return f"{counts} in {FLOOD_S} s"

    arena.withstand(f"flood: {name}", attack)


CALLS = 1500
AT_ONCE = 100
"""Calls that nobody's share is too small for."""


@both
def test_more_calls_than_there_is_room_for(arena: Arena, front: Front) -> None:
    """Nobody has cancelled: nobody gets CANCELLED."""
    request = asked(max_new_tokens=12)

    def attack(server: ServerProcess) -> str:
        outcomes = front.send(arena.attackers, server, [request] * CALLS, "attacker")
        return expect(outcomes, *front.over)

    arena.withstand(front.named(f"flood: {CALLS} calls at once"), attack)


@both_http_slow
def test_more_streams_than_there_is_room_for(arena: Arena, front: Front) -> None:
    request = asked(max_new_tokens=12)

    def attack(server: ServerProcess) -> str:
        outcomes = front.send(arena.attackers, server, [request] * 1200, "attacker", stream=True)
        return expect(outcomes, *front.over)

    arena.withstand(front.named("flood: 1200 streams at once"), attack)


@both
def test_calls_without_a_token_by_the_thousand(arena: Arena, front: Front) -> None:
    def attack(server: ServerProcess) -> str:
        outcomes = front.send(arena.attackers, server, [asked()] * CALLS)
        return expect(outcomes, "UNAUTHENTICATED", *front.over[1:])

    arena.withstand(front.named(f"flood: {CALLS} calls without a token"), attack)


@both_http_slow
def test_deadlines_of_20_ms(arena: Arena, front: Front) -> None:
    request = asked(prompt="word " * 50, max_new_tokens=30)

    def attack(server: ServerProcess) -> str:
        requests = [request] * 1000
        outcomes = front.send(arena.attackers, server, requests, "attacker", timeout=0.02)
        return expect(outcomes, "DEADLINE_EXCEEDED", *front.over)

    arena.withstand(front.named("flood: 1000 deadlines of 20 ms"), attack)


@both
@pytest.mark.parametrize("after", [0.0, 0.05])
def test_calls_that_are_cancelled(arena: Arena, front: Front, after: float) -> None:
    request = asked(prompt="word " * 50, max_new_tokens=30)

    def attack(server: ServerProcess) -> str:
        requests = [request] * 1000
        outcomes = front.send(arena.attackers, server, requests, "attacker", cancel_after=after)
        return expect(outcomes, "CANCELLED", *front.over)

    name = f"flood: 1000 calls cancelled after {after * 1e3:.0f} ms"
    arena.withstand(front.named(name), attack)


def test_calls_that_are_reset(arena: Arena) -> None:
    """Their sender has no token, and never more than one open."""

    def attack(server: ServerProcess) -> str:
        for _ in range(4):
            http2.reset_calls(server.target, GENERATE, 20_000)
        assert watched(server) == SERVING
        return "80000 calls"

    arena.withstand("flood: 80000 calls that are reset at once", attack)


@both
def test_long_ids(arena: Arena, front: Front) -> None:
    """In metrics, in the log and in errors they are cut."""
    requests = [asked(adapter_id=f"{i}-" + "x" * 250) for i in range(300)]
    requests += [asked(adapter_id="x" * 100_000)] * 20
    requests += [asked(adapter_id="\U0001f600" * 256)] * 20

    def attack(server: ServerProcess) -> str:
        outcomes = []
        for i in range(0, len(requests), AT_ONCE):
            outcomes += front.send(arena.attackers, server, requests[i : i + AT_ONCE], "operator")
        return expect(outcomes, "NOT_FOUND", "INVALID_ARGUMENT")

    arena.withstand(front.named("ids of 250 and of 100000 characters"), attack)
