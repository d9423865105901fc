"""Port of the server: with or without TLS, and how its channels behave."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from .config import Settings
from .threads import Pool
from .tls import ServerContexts, server_credentials

_NO_LIMIT = 2**31 - 1
_STREAMS = 4096
"""Calls of one connection at once: more than a server has places for."""


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Make the credentials of TLS; None without it. Raises TLSError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return server_credentials(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def https_contexts(settings: Settings, threads: Pool) -> ServerContexts | None:
    """Make the contexts of TLS for HTTP; None without it. Raises TLSError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServerContexts(settings.tls_cert, settings.tls_key, settings.tls_client_ca, threads)


def bare_host(settings: Settings) -> str:
    """Give the host as sockets take it: [::1] is ::1."""
    return settings.host.strip("[]")


def address(settings: Settings, port: int) -> str:
    """Give host and port as gRPC takes them: in brackets where the host has colons."""
    host = bare_host(settings)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_port(settings: Settings) -> None:
    """Check that the port can be had later. Raises OSError."""
    host = bare_host(settings)
    addresses = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)
    problems = [error for family, *_, one in addresses if (error := _try_to_bind(family, one))]
    taken = [error for error in problems if error.errno == errno.EADDRINUSE]
    # As gRPC: a name may have addresses that this machine lacks, such as localhost without IPv6.
    if taken or len(problems) == len(addresses):
        raise (taken or problems)[0]


def _try_to_bind(family: int, where: Any) -> OSError | None:
    try:
        with socket.socket(family) as trial:
            # As gRPC: what is left of former connections is no hindrance, a listener is.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
    except OSError as error:
        return error
    return None


def add_port(
    server: grpc.aio.Server, settings: Settings, secure: grpc.ServerCredentials | None
) -> int:
    """Add the port; gives the one that was taken. Raises OSError if it is another's by now, and
    RuntimeError."""
    where = address(settings, settings.port)
    try:
        if secure is None:
            return server.add_insecure_port(where)
        return server.add_secure_port(where, secure)
    except RuntimeError:  # gRPC keeps the reason to its own log
        with named_port("--port", settings.port):
            check_port(settings)
        raise


def channel_options(settings: Settings) -> list[tuple[str, int]]:
    """Make the options of channels to any of the ports."""
    keepalive = int(settings.keepalive_s * 1000)
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", keepalive),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", min(keepalive, 10_000)),
        # Calls that wait for the event loop are refused there, with a reason: over its own limits
        # (1000, 3000) gRPC ends them as CANCELLED, which nobody has done.
        ("grpc.server.max_pending_requests", _NO_LIMIT),
        ("grpc.server.max_pending_requests_hard_limit", _NO_LIMIT),
        # With a limit, gRPC counts calls that a client has reset until they are done with: without
        # one, 20 000 of a moment hold up others' health checks for seconds, and stay in memory.
        ("grpc.max_concurrent_streams", _STREAMS),
        # A second server on the same port is an error, not a share of the calls.
        ("grpc.so_reuseport", 0),
    ]


def serving_options(settings: Settings) -> list[tuple[str, int]]:
    """Make the options of channels to the serving port."""
    options = channel_options(settings)
    if settings.max_connection_age_s:
        # Without a grace: running calls finish, and the connection ends with the last of them.
        options.append(("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000)))
    return options


@contextmanager
def named_port(flag: str, port: int) -> Iterator[None]:
    """Let an OSError of the block say which port it is about, and what chooses another."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{flag} {port}: {error.strerror}") from error
