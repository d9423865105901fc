"""Connections over HTTP: slow ones, silent ones, by the thousand, readers that stop, and those that are gone."""

from __future__ import annotations

import select
import time
from contextlib import ExitStack, suppress

import pytest

from ..support.processes import wait_until
from .arena import Arena, expect
from .calls import answer, asked
from .forms import CHAT, COMPLETIONS, Asked, Many
from .fronts import GRPC, HTTP
from .http1 import connect, drip, head, post, said, statuses, vanish
from .server import FILES, ServerProcess
from .sockets import connections, is_closed

pytestmark = pytest.mark.attacks

CALLER = "attacker"
SECONDS = 2
"""How long nothing is read."""
FLOOD_S = 1
PLACES = FILES // 2
LONG = asked(max_new_tokens=3000)
PATHS = (CHAT, COMPLETIONS, "/tokenize", "/detokenize", "/v1/load_lora_adapter")
PAGES = {
    "/health": "",
    "/": CALLER,
    "/v1/models": CALLER,
    "/status": CALLER,
    "/adapters?page_size=1000": "operator",
    "/metrics": "operator",
    "/metrics/router": "operator",
    "/version": CALLER,
}


def streamed(request: Asked, caller: str = CALLER) -> bytes:
    path, data = request.http(stream=True)
    return post(path, data, caller)


JSON = {"content-type": "application/json"}
BEGUN = head("POST", COMPLETIONS, {}, CALLER)[:-2]
SIZED = head("POST", COMPLETIONS, JSON | {"content-length": 10_000}, CALLER)
CHUNKED = head("POST", COMPLETIONS, JSON | {"transfer-encoding": "chunked"}, CALLER)
HALVES = (b"", b"G", BEGUN, BEGUN + b"x: ")
HALF_BODIES = (SIZED, SIZED + b"{", CHUNKED + b"1\r\n{\r\n", CHUNKED + b"ff")


@pytest.mark.parametrize("what", ["heads", "bodies"])
def test_connections_that_are_slow(arena: Arena, what: str) -> None:
    """Heads are all closed in the end, however much they still say; bodies may take a minute."""
    texts = HALVES if what == "heads" else HALF_BODIES

    def attack(server: ServerProcess) -> str:
        with ExitStack() as stack:
            opened = []
            for text in texts:
                opened += stack.enter_context(connections(server.http_port, 20, text))
            answer(arena, server, "neighbour", HTTP)
            drip(opened[20:], b" ", 0.5, SECONDS)
            if what == "heads":
                wait_until(lambda: all(map(is_closed, opened)), 45)
            closed = sum(map(is_closed, opened))
        return f"{closed} of {len(opened)} connections closed"

    arena.withstand(f"HTTP, {what} that are sent by half", attack)


HOLDERS = {
    "say nothing": b"",
    "say half": BEGUN,
    "are kept": head("GET", "/health", {}),
    "have a body to send": SIZED + b"{",
    "have an answer to read": head("GET", "/v1/models", {}, CALLER) * 4,
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_more_connections_than_there_are_places(arena: Arena, kind: str) -> None:
    """Who asks nothing makes room for who does."""

    def attack(server: ServerProcess) -> str:
        with connections(server.http_port, PLACES + 100, HOLDERS[kind]) as opened:
            for front in (HTTP, GRPC, HTTP):
                answer(arena, server, "neighbour", front)
            probe = head("GET", "/health", {"connection": "close"})
            (codes,) = map(statuses, said(server.http_port, [[probe]]))
            assert codes == [200], codes
            held = sum(not is_closed(one) for one in opened)
        return f"{held} of {len(opened)} held"

    arena.withstand(f"HTTP, {PLACES + 100} connections that {kind}", attack)


@pytest.mark.parametrize("how", ["reset", "closed", "half closed"])
def test_readers_that_are_gone(arena: Arena, how: str) -> None:
    """What they have asked for ends at once."""

    def attack(server: ServerProcess) -> str:
        opened = [connect(server.http_port) for _ in range(20)]
        for one in opened:
            one.sendall(streamed(LONG))
        with suppress(AssertionError):
            wait_until(lambda: server.load().running > 10, 5)
        running = server.load().running
        for one in opened:
            if how == "reset":
                vanish(one)
            elif how == "half closed":
                one.shutdown(1)
            else:
                one.close()
        if how != "half closed":
            wait_until(lambda: server.load().running <= 2, 5)
        for one in opened:
            one.close()
        assert running > 2, "nothing had begun"
        return f"{running} ran"

    arena.withstand(f"HTTP, readers that are {how}", attack)


def test_whole_answers_that_are_not_read(arena: Arena) -> None:
    path, data = asked(n=16, logprobs=20, max_new_tokens=100, temperature=1.0).http()

    def attack(server: ServerProcess) -> str:
        opened = [connect(server.http_port, 4096) for _ in range(4)]
        for one in opened:
            one.sendall(post(path, data, CALLER))
        time.sleep(SECONDS)
        for one in opened:
            vanish(one)
        return "4 answers of 16 choices"

    arena.withstand("HTTP, answers that are not read", attack)


def test_streams_read_in_drops(arena: Arena) -> None:
    """They hold what gRPC's unread streams hold, and no more."""
    request = asked(n=16, logprobs=20, max_new_tokens=600, temperature=1.0)

    def attack(server: ServerProcess) -> str:
        opened = [connect(server.http_port, 4096) for _ in range(4)]
        for one in opened:
            one.sendall(streamed(request))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for one in select.select(opened, (), (), 0.1)[0]:
                one.recv(100)
            time.sleep(0.05)
        for one in opened:
            one.close()
        return "4 streams of 16 choices"

    arena.withstand("HTTP, streams that are read in drops", attack)


@pytest.mark.parametrize("path", PAGES)
def test_floods_of_pages(arena: Arena, path: str) -> None:
    def attack(server: ServerProcess) -> str:
        counts = arena.attackers.repeat_get(server.http_target, path, PAGES[path], FLOOD_S)
        assert counts.keys() <= {"OK", "RESOURCE_EXHAUSTED"}, counts
        return f"{counts} in {FLOOD_S} s"

    arena.withstand(f"HTTP, flood: {path}", attack)


def test_pages_that_are_not_read(arena: Arena) -> None:
    request = head("GET", "/metrics", {}, "operator") * 200

    def attack(server: ServerProcess) -> str:
        with connections(server.http_port, 50, request):
            time.sleep(SECONDS)
        return "50 connections with 200 requests each, unread"

    arena.withstand("HTTP, pages that are not read", attack)


CREDENTIALS = {
    "none": {},
    "another": {"authorization": "Bearer lmx_another"},
    "one of 60 KB": {"authorization": "Bearer " + "a" * 60_000},
    "a password": {"authorization": "Basic YTpi"},
    "bytes that are no text": {"authorization": "Bearer ÿþ"},
    "an empty one": {"authorization": "Bearer "},
}


@pytest.mark.parametrize("name", CREDENTIALS)
def test_work_without_a_token(arena: Arena, name: str) -> None:
    """Refused before any of it is read."""
    length = {"content-length": 4_000_000, "content-type": "application/json"}

    def attack(server: ServerProcess) -> str:
        requests = [[head("POST", path, length | CREDENTIALS[name])] for path in PATHS * 5]
        answers = map(statuses, said(server.http_port, requests))
        seen = {code for codes in answers for code in codes or [0]}
        assert seen <= {401, 400, 404, 405, 431}, seen
        return f"{seen}, nothing of their bodies was sent"

    arena.withstand(f"HTTP, a token: {name}", attack)


def test_two_tokens(arena: Arena) -> None:
    """Which one counts is not for the caller to choose."""
    path, data = asked().http()
    request = post(path, data, CALLER).replace(
        b"\r\n", b"\r\nconnection: close\r\nauthorization: Bearer lmx_another\r\n", 1
    )

    def attack(server: ServerProcess) -> str:
        (codes,) = map(statuses, said(server.http_port, [[request]]))
        assert codes in ([400], [401]), codes
        return str(codes)

    arena.withstand("HTTP, two tokens", attack)


def test_bodies_that_nobody_asked_for(arena: Arena) -> None:
    """4 MB to pages that have none, again and again."""
    data = Asked({"messages": Many({})}).http()[1]
    targets = ["/health", "/nothing", "/v1/models"]

    def attack(server: ServerProcess) -> str:
        posts = [(path, data) for path in targets * 6]
        outcomes = arena.attackers.post(server.http_target, posts, CALLER).result(60)
        return expect(outcomes, "404", "405", "NOT_FOUND", "CLOSED")

    arena.withstand("HTTP, bodies that nobody asked for", attack)
