"""The metrics port: connections that are only held give way to scrapes."""

from __future__ import annotations

import http.client
import socket
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from server import metrics_port

from ..support.servers import free_port


@pytest.fixture
def port() -> Iterator[int]:
    registry = CollectorRegistry()
    Counter("seen", "Seen.", registry=registry).inc()
    port = free_port()
    server = metrics_port.start(
        "127.0.0.1", port, registry, {"/metrics/router": lambda: b"for routers\n"}
    )
    yield port
    server.close()


def scraped(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return answer.read()


def half_a_request(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(b"GET /metrics HTTP/1.1\r\n")
    return connection


def test_held_connections_are_the_first_to_go(port: int) -> None:
    held = [half_a_request(port) for _ in range(metrics_port.MAX_CONNECTIONS + 5)]
    assert b"seen_total 1.0" in scraped(port)
    assert [connection.recv(1) for connection in held[:6]] == [b""] * 6
    last = held[-1]
    last.sendall(b"\r\n")  # one of those that are left is served once it asks
    assert last.recv(8) == b"HTTP/1.1"
    for connection in held:
        connection.close()


def test_idle_connections_are_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port._Handler, "timeout", 0.05)
    with half_a_request(port) as connection:
        assert connection.recv(1) == b""
    assert b"seen_total" in scraped(port)


def test_a_port_that_is_taken(port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        metrics_port.start("127.0.0.1", port, CollectorRegistry(), {})


def test_scrapers_keep_their_connection(port: int) -> None:
    router = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    router.connect()
    connection = router.sock
    for path in ("/metrics/router", "/metrics", "/metrics/router?from=a-router"):
        router.request("GET", path)
        answer = router.getresponse()
        assert (answer.read() == b"for routers\n") == ("router" in path)
        assert answer.getheader("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    router.request("HEAD", "/metrics/router")
    assert (answer := router.getresponse()).status == 405
    assert answer.read() == b""
    router.request("OPTIONS", "/metrics")
    assert router.getresponse().read() == b""
    assert router.sock is connection
    router.close()


def test_who_asks_stays_when_others_hold_their_places(port: int) -> None:
    router = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    router.connect()
    connection = router.sock
    held = []
    for _ in range(2 * metrics_port.MAX_CONNECTIONS):
        held.append(half_a_request(port))
        router.request("GET", "/metrics/router")
        assert router.getresponse().read() == b"for routers\n"
    assert router.sock is connection
    router.close()
    for one in held:
        one.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /metrics/router HTTP/1.0\r\n\r\n",
        b"GET /metrics/router HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /metrics/router HTTP/1.1\r\nContent-Length: 3\r\n\r\nGET",
    ],
    ids=["old", "last", "with-a-body"],
)
def test_other_routers_get_one_page(port: int, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    assert answer.endswith(b"\r\n\r\nfor routers\n")
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert b"Connection: close\r\n" in answer


def test_what_is_no_request_ends_the_connection(port: int) -> None:
    for junk in (b"\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n", b"x" * 70_000):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(junk)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
    assert b"seen_total" in scraped(port)
