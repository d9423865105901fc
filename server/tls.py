"""Transport credentials from PEM files, for the server and for the client."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import grpc


class TLSError(Exception):
    """A certificate or key file cannot be read, or what is given is not whole."""


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """With `client_ca`, clients must show a certificate of it. Raises TLSError."""
    return grpc.ssl_server_credentials(
        [(_read(key), _read(cert))], _read(client_ca) if client_ca else None, require_client_auth=client_ca is not None)


def channel_credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    """Without `ca` the system's authorities count. Raises TLSError."""
    if (cert is None) != (key is None):
        raise TLSError("a client certificate and its key are needed together")
    return grpc.ssl_channel_credentials(*(_read(path) if path else None for path in (ca, key, cert)))


def is_loopback(host: str) -> bool:
    """Whether what is sent to `host`, a name or an address, stays on this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TLSError(f"{path} cannot be read: {error.strerror}") from error
