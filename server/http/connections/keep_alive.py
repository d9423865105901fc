"""Ends of connections: a client hears of it before, and loses no call."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ...lifecycle.connections import unread_bytes

_JITTER = 0.1
"""Part of the age by which it differs, so that clients do not all come again at once."""


@dataclass
class Farewell:
    """When the clients of a port are told to leave, in the next answer: at an age (0: never) of
    their connection, or when the port `ends`."""

    age_s: float = 0
    ends: bool = False


class KeepAlive(HttpToolsProtocol):
    """Connection that ends behind an answer which says so (`connection: close`), or while idle.

    HTTP/1.1 has no other way: a connection that ends by itself takes the request with it that its
    client sends at that moment.
    """

    def __init__(self, *, farewell: Farewell, **parts: Any) -> None:
        super().__init__(**parts)
        self.is_left = False
        """Whether nothing is answered any more."""
        self._farewell = farewell
        self._last, self._idle_since = 0.0, time.monotonic()
        self._is_reading = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._idle_since = time.monotonic()
        age_s = self._farewell.age_s * random.uniform(1 - _JITTER, 1 + _JITTER)
        self._last = self._idle_since + age_s if age_s else float("inf")

    def on_message_begin(self) -> None:
        self._is_reading = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.cycle.transport = cast(Any, _LastAnswer(self))
        if self._farewell.ends or time.monotonic() > self._last:
            self.tell()

    def on_message_complete(self) -> None:
        self._is_reading = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if not self.is_left:
            super().on_response_complete()
        self._idle_since = time.monotonic()

    def close(self) -> None:
        """Close it, at once if its client has sent all that it was sending."""
        if self._is_reading or self.pipeline:
            self.leave()
        else:
            self.transport.close()

    def leave(self) -> None:
        """Answer nothing more, and pass over what comes, until its client ends it or is late.

        A client whose connection is reset while it sends does not read what it was answered.
        """
        self.is_left = True
        self.pipeline.clear()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def tell(self) -> None:
        """Let the answer that is due say that the connection ends with it; one that has begun cannot
        any more, and so does not end it."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    @property
    def idle_s(self) -> float:
        """Seconds for which its client has not been waiting for anything, 0 while it is."""
        if (
            self._is_reading
            or self.pipeline
            or not (self.cycle is None or self.cycle.response_complete)
        ):
            return 0.0
        return time.monotonic() - self._idle_since

    def end_if_idle(self, seconds: float) -> None:
        """End it after so many seconds of silence, if no request has come meanwhile."""
        listener = self.transport.get_extra_info("socket")
        if self.transport.is_closing() or self.idle_s <= seconds:
            return
        if not unread_bytes(listener.fileno()):
            self.transport.close()


class _LastAnswer:
    """Transport of an answer, which ends the connection if it was the last."""

    def __init__(self, connection: KeepAlive) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.close
