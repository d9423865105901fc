"""The metrics port: connections that are only held give way to scrapes."""

from __future__ import annotations

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
    server = metrics_port.start("127.0.0.1", port, registry)
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
    assert last.recv(8) == b"HTTP/1.0"
    for connection in held:
        connection.close()


def test_idle_connections_are_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port._Handler, "timeout", 0.05)
    with half_a_request(port) as connection:
        assert connection.recv(1) == b""
    assert b"seen_total" in scraped(port)


def test_a_port_that_is_taken(port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        metrics_port.start("127.0.0.1", port, CollectorRegistry())
