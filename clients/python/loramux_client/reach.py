"""How a server is reached: its address, the options of the channel, and each call's metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
from loramux.v1 import inference_pb2

from .errors import CallError

if TYPE_CHECKING:
    from .fields import GenerateFields

PathLike = str | os.PathLike[str]
Metadata = Iterable[tuple[str, str]]

GENERATE_TIMEOUT_S = 600.0
"""Of a generation for which nothing else is said."""
_NEVER_S = 1e9
"""From here on a deadline is none: gRPC takes one beyond its clock's end for one that is past."""

_MAX_ID_LENGTH = 256
_PLAIN = "!#$&'()*+,/:;<=>?@[]^`{|}\"\\"
"""Printable ASCII that stays as it is, beside letters, digits and what `quote` leaves alone."""

_SAME_TWICE = (
    "LoadAdapter",
    "SetPolicy",
    "GetAdapter",
    "ListAdapters",
    "ListDeclaredAdapters",
)
"""Calls of `Adapters` that change nothing more, and answer the same, where they are made twice: not
so a rollback to the version before, and an unload or a promotion, which find nothing more to do."""
_RETRY = {
    "maxAttempts": 5,  # the most that gRPC makes
    "initialBackoff": "0.2s",
    "maxBackoff": "5s",
    "backoffMultiplier": 2,
    # A full queue says itself when to come back (grpc-retry-pushback-ms), or not to.
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}


class Reach:
    """How one server is reached. What a client and its async twin share."""

    def __init__(
        self,
        target: str,
        *,
        tls: bool = False,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        token: str = "",
        timeout_s: float = GENERATE_TIMEOUT_S,
        retry: bool = True,
    ) -> None:
        """Take what is needed to reach a server; no connection is made before the first call.

        `target`: HOST:PORT, or a name as gRPC takes it (dns:///NAME:PORT: each of its addresses
        takes a share of the calls). `tls` is on by itself where `ca` or `cert` is given, and alone
        takes the system's authorities. `timeout_s`: deadline of generations that name none.
        `retry`: let gRPC make refused calls anew, see docs/guide/client.md.

        Raises CallError for files that cannot be read.
        """
        self.target, self.token, self.timeout_s = target, token, timeout_s
        self.tls, self.ca, self.cert, self.key = tls, ca, cert, key
        self.retry = retry
        self._credentials = self._read_credentials() if self.is_secure else None
        self._metadata: tuple[tuple[str, str], ...] = (
            (("authorization", f"Bearer {token}"),) if token else ()
        )
        self._start()

    def _start(self) -> None:
        """Open the channel, where that is done at once."""

    @property
    def is_secure(self) -> bool:
        return self.tls or any((self.ca, self.cert, self.key))

    def _read_credentials(self) -> grpc.ChannelCredentials:
        if (self.cert is None) != (self.key is None):
            raise CallError("a client certificate and its key are needed together")
        return grpc.ssl_channel_credentials(*map(_read, (self.ca, self.key, self.cert)))

    def _deadline(self, timeout_s: float | None) -> float | None:
        """Seconds of a generation as gRPC takes them."""
        return deadline(self.timeout_s if timeout_s is None else timeout_s)

    def _options(self) -> list[tuple[str, Any]]:
        return [
            ("grpc.service_config", json.dumps(_service_config(self.retry))),
            # What is kept for another try: a larger message is none that a server takes, unless it
            # is set otherwise, and is refused once.
            ("grpc.per_rpc_retry_buffer_size", 4 << 20),
            ("grpc.max_receive_message_length", -1),  # the server bounds what it sends
            # A peer that is gone without a word is found out during a call.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # A server that comes back after minutes is not waited for as long again.
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ]

    def _generation_metadata(
        self, request: inference_pb2.GenerateRequest, extra: Metadata
    ) -> tuple[tuple[str, str], ...]:
        """Metadata of a generation: routers tell adapters' calls apart by x-adapter-id."""
        adapter_id = request.adapter_id
        if not adapter_id and request.adapters:
            adapter_id = request.adapters[0].adapter_id
        if not adapter_id:
            return (*self._metadata, *extra)
        return (*self._metadata, ("x-adapter-id", _header_text(adapter_id)), *extra)


def deadline(seconds: float) -> float | None:
    """Give a call's seconds as gRPC takes them: None is no deadline there."""
    return None if seconds >= _NEVER_S else seconds


def request_of(
    request: inference_pb2.GenerateRequest | None, fields: GenerateFields
) -> inference_pb2.GenerateRequest:
    """Give the request: a whole one, or one made from fields."""
    if request is None:
        return inference_pb2.GenerateRequest(**fields)
    if fields:
        raise TypeError(f"a request and its fields: {', '.join(fields)}")
    return request


def _header_text(adapter_id: str) -> str:
    """Give an id as metadata can carry it, percent-encoded where it has more than plain ASCII.

    No adapter's id is longer than what is left of it: the server refuses it in its own words.
    """
    return quote(adapter_id[:_MAX_ID_LENGTH], safe=_PLAIN)


def _service_config(retry: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retry:
        names: list[dict[str, str]] = [
            {"service": "loramux.v1.Inference"},
            {"service": "loramux.v1.Server"},
            *({"service": "loramux.v1.Adapters", "method": method} for method in _SAME_TWICE),
        ]
        config["methodConfig"] = [{"name": names, "retryPolicy": _RETRY}]
    return config


def _read(path: PathLike | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CallError(f"{path} cannot be read: {error.strerror}") from error
