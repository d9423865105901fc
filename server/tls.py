"""Transport credentials of the server from PEM files."""

from __future__ import annotations

import ipaddress
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import grpc
import structlog

from lora_runtime import EngineStoppedError

from .files import stamp
from .threads import Pool

log = structlog.get_logger("loramux.server")
T = TypeVar("T")
_LOOK_EVERY_S = 1.0


class TLSError(Exception):
    """Error for a certificate or key file that cannot be read, or files that do not go together."""


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Credentials of the server; with `client_ca`, clients must show a certificate of it.

    Raises TLSError. The files are looked at for every new connection: renewed certificates need no
    restart.
    """
    files = _ServerFiles(cert, key, client_ca, _grpc_configuration)
    return grpc.dynamic_ssl_server_credentials(
        # The stubs forget that None means no change.
        files.first,
        files.fetch,  # type: ignore[arg-type]
        require_client_authentication=client_ca is not None,
    )


def is_loopback(host: str) -> bool:
    """True if what is sent to `host`, a name or an address, stays on this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class ServerContexts:
    """Contexts for Python's own TLS with the same files as gRPC's credentials.

    They are looked at every second at most, and on a thread: a disk that hangs holds up nobody.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None, threads: Pool) -> None:
        """Read the files. Raises TLSError."""
        self._files = _ServerFiles(cert, key, client_ca, _context)
        self._threads, self._context = threads, self._files.first
        self._looking: Future[None] | None = None
        self._looked_at = time.monotonic()

    def newest(self) -> ssl.SSLContext:
        """Give the context for a new connection. Call it on the event loop."""
        now = time.monotonic()
        is_looking = self._looking is not None and not self._looking.done()
        if not is_looking and now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            with suppress(EngineStoppedError):  # the server is at its end
                self._looking = self._threads.submit(self._look)
        return self._context

    def _look(self) -> None:
        self._context = self._files.fetch() or self._context


class _ServerFiles(Generic[T]):
    """Files of the server's certificate, and what `make` makes of them. gRPC calls `fetch` on
    threads of its own; what cannot be read leaves the former one."""

    def __init__(
        self, cert: Path, key: Path, client_ca: Path | None, make: Callable[..., T]
    ) -> None:
        self._cert, self._key, self._client_ca, self._make = cert, key, client_ca, make
        self._lock = threading.Lock()
        self._stamps = self._look()
        self.first = self._load()

    def fetch(self) -> T | None:
        """Fetch the new configuration, None if there is none."""
        with self._lock:
            stamps = self._look()
            if stamps == self._stamps:
                return None
            try:
                made = self._load()
            except TLSError as error:
                log.error("the new certificate cannot be read: the former stays", error=str(error))
                return None
            # Replaced between two reads: the next connection looks again.
            if stamps != self._look():
                return None
            self._stamps = stamps
        log.info("certificate read", file=str(self._cert))
        return made

    def _load(self) -> T:
        return self._make(self._cert, self._key, self._client_ca)

    def _look(self) -> list[object]:
        return [
            stamp(path) for path in (self._cert, self._key, self._client_ca) if path is not None
        ]


def _grpc_configuration(
    cert: Path, key: Path, client_ca: Path | None
) -> grpc.ServerCertificateConfiguration:
    """Read the files for gRPC. Raises TLSError for files that are no such PEM or do not go
    together: of these gRPC says only that it cannot bind."""
    authorities = _read(client_ca) if client_ca else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # how strong keys must be is gRPC's matter
    _fill(context, cert, key, client_ca)
    return grpc.ssl_server_certificate_configuration([(_read(key), _read(cert))], authorities)


def _context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Make a context for HTTP/1.1. Raises TLSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a handshake costs the server more than the client
    context.set_alpn_protocols(["http/1.1"])
    _fill(context, cert, key, client_ca)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _fill(context: ssl.SSLContext, cert: Path, key: Path, client_ca: Path | None) -> None:
    try:
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        raise TLSError(
            f"{cert} and {key} are no certificate with its key: {_reason(error)}"
        ) from error
    if client_ca is None:
        return
    try:
        context.load_verify_locations(client_ca)
    except (OSError, ValueError) as error:
        raise TLSError(f"{client_ca} has no certificates: {_reason(error)}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TLSError(f"{path} cannot be read: {error.strerror}") from error


def _reason(error: Exception) -> str:
    """Give OpenSSL's reason in words; the rest of its text is the place in its source."""
    if not isinstance(error, ssl.SSLError):
        return str(error)
    return (error.reason or "not pem").replace("_", " ").lower()
