"""Transport credentials from PEM files, for the server and for the client."""

from __future__ import annotations

import ipaddress
import ssl
import threading
from pathlib import Path

import grpc
import structlog

from .files import stamp

log = structlog.get_logger("loramux.server")


class TLSError(Exception):
    """Error for a certificate or key file that cannot be read, or files that do not go together."""


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Credentials of the server; with `client_ca`, clients must show a certificate of it.

    Raises TLSError. The files are looked at for every new connection: renewed certificates need no
    restart.
    """
    files = _ServerFiles(cert, key, client_ca)
    return grpc.dynamic_ssl_server_credentials(
        # The stubs forget that None means no change.
        files.first,
        files.fetch,  # type: ignore[arg-type]
        require_client_authentication=client_ca is not None,
    )


def channel_credentials(
    ca: Path | None, cert: Path | None, key: Path | None
) -> grpc.ChannelCredentials:
    """Credentials of a client; without `ca` the system's authorities count. Raises TLSError."""
    if (cert is None) != (key is None):
        raise TLSError("a client certificate and its key are needed together")
    return grpc.ssl_channel_credentials(
        *(_read(path) if path else None for path in (ca, key, cert))
    )


def is_loopback(host: str) -> bool:
    """True if what is sent to `host`, a name or an address, stays on this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class _ServerFiles:
    """Files of the server's certificate. gRPC calls `fetch` on threads of its own; what cannot be
    read leaves the former one."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._lock = threading.Lock()
        self._stamps = self._look()
        self.first = self._load()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Fetch the new configuration, None if there is none."""
        with self._lock:
            stamps = self._look()
            if stamps == self._stamps:
                return None
            try:
                config = self._load()
            except TLSError as error:
                log.error("the new certificate cannot be read: the former stays", error=str(error))
                return None
            # Replaced between two reads: the next connection looks again.
            if stamps != self._look():
                return None
            self._stamps = stamps
        log.info("certificate read", file=str(self._cert))
        return config

    def _load(self) -> grpc.ServerCertificateConfiguration:
        authorities = _read(self._client_ca) if self._client_ca else None
        self._check()
        return grpc.ssl_server_certificate_configuration(
            [(_read(self._key), _read(self._cert))], authorities
        )

    def _check(self) -> None:
        """Raise TLSError for files that are no such PEM or do not go together: of these gRPC says
        only that it cannot bind."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # how strong keys must be is gRPC's matter
        try:
            context.load_cert_chain(self._cert, self._key, password="")
        except (OSError, ValueError) as error:
            raise TLSError(
                f"{self._cert} and {self._key} are no certificate with its key: {_reason(error)}"
            ) from error
        if self._client_ca is None:
            return
        try:
            context.load_verify_locations(self._client_ca)
        except (OSError, ValueError) as error:
            raise TLSError(f"{self._client_ca} has no certificates: {_reason(error)}") from error

    def _look(self) -> list[object]:
        return [
            stamp(path) for path in (self._cert, self._key, self._client_ca) if path is not None
        ]


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
