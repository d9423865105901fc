"""Port of the server: with or without TLS, and how its channels behave."""

from __future__ import annotations

import grpc

from .config import Settings
from .tls import server_credentials


def add_port(server: grpc.aio.Server, settings: Settings) -> int:
    """Add the port; gives the one that was taken. Raises RuntimeError, TLSError."""
    address = f"{settings.host}:{settings.port}"
    if settings.tls_cert is None or settings.tls_key is None:
        return server.add_insecure_port(address)
    credentials = server_credentials(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return server.add_secure_port(address, credentials)


def channel_options(settings: Settings) -> list[tuple[str, int]]:
    keepalive = int(settings.keepalive_s * 1000)
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", keepalive),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", min(keepalive, 10_000)),
        # A second server on the same port is an error, not a share of the calls.
        ("grpc.so_reuseport", 0),
    ]
