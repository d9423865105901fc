"""What is known of a server at one moment, and how old it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
from loramux.v1 import adapters_pb2, server_pb2
from loramux_client import CallError

_LIST_EVERY_S = 5.0
"""Seconds between lists of adapters: there may be thousands."""
_PASSES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""Codes of a server that may answer again."""


@dataclass(frozen=True)
class Seen:
    """Answer of a server, or the last one before `error`."""

    status: server_pb2.ServerStatus
    adapters: Sequence[adapters_pb2.Adapter]
    error: str = ""
    """Why the server does not answer now."""
    silent_s: float = 0.0
    """Seconds since it answered last."""


class Reader:
    """Reader of one server. Its first answer must come; later ones may fail to for a while."""

    def __init__(
        self,
        status: Callable[[], server_pb2.ServerStatus],
        adapters: Callable[[], Sequence[adapters_pb2.Adapter]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status, self._adapters, self._clock = status, adapters, clock
        self._last: Seen | None = None
        self._answered_at = self._listed_at = 0.0

    def read(self) -> Seen:
        """Ask the server. Raises CallError where asking again is of no use."""
        try:
            self._last = self._answer()
        except CallError as error:
            if self._last is None or error.code not in _PASSES:
                raise
            silent_s = self._clock() - self._answered_at
            return Seen(self._last.status, self._last.adapters, error.details, silent_s)
        self._answered_at = self._clock()
        return self._last

    def _answer(self) -> Seen:
        status, now = self._status(), self._clock()
        if self._last is not None and now - self._listed_at < _LIST_EVERY_S:
            return Seen(status, self._last.adapters)
        self._listed_at = now
        return Seen(status, self._adapters())
