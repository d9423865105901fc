"""The port: whether it can be had is known before the base is loaded."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.transport import add_port, check_port

from ..support.servers import make_settings

ABSENT = "192.0.2.1"
"""An address that no machine has (RFC 5737)."""


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make every name stand for these addresses."""

    def found(host: str, port: int, **options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_one_address_of_a_name_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names(monkeypatch, ABSENT, "127.0.0.1")
    check_port(make_settings(tmp_path, host="localhost"))


def test_a_name_without_an_address_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names(monkeypatch, ABSENT)
    with pytest.raises(OSError, match="Cannot assign"):
        check_port(make_settings(tmp_path, host="elsewhere"))


def test_a_port_that_is_taken_at_one_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names(monkeypatch, "127.0.0.2", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            check_port(make_settings(tmp_path, host="localhost", port=port))


async def test_a_port_that_was_taken_meanwhile(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"--port {port}: Address already in use"):
            add_port(grpc.aio.server(), make_settings(tmp_path, port=port), None)
