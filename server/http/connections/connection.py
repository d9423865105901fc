"""Connections of the HTTP port: uvicorn's protocol, with bounds on what clients may send and take."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools

from .keep_alive import KeepAlive
from .places import MOST_S, Phase, Places
from .refusals import (
    CHUNKS,
    FULL,
    LARGE_BODY,
    LARGE_HEAD,
    LONG_URL,
    MANY_CHUNKS,
    NO_HTTP,
    PIPELINE,
    SLOW,
    URL_BYTES,
    Refusal,
    RefusedError,
    answer,
)

_HEADERS, _HEAD_BYTES = 128, 64 << 10
"""Most headers of a request, and bytes of them with their line."""
_PIPELINED = 8
"""Most requests that wait on a connection for the answer of the one before."""


@dataclass(frozen=True)
class Port:
    """Port that connections come to."""

    places: Places
    max_body_bytes: int
    on_refused: Callable[[int], None]
    """Called with the status of what was refused without a call."""
    tls: Callable[[], ssl.SSLContext] | None = None


class Connection(KeepAlive):
    """Connection of one client.

    What is too large, too much or too slow ends it; its end ends what runs for it.
    """

    def __init__(self, port: Port, **parts: Any) -> None:
        super().__init__(**parts)
        self._port = port
        self._phase = Phase.NEW
        self._late: TimerHandle | None = None
        self._is_unread = False
        self._calls: set[asyncio.Task[None]] = set()
        self._securing: asyncio.Task[None] | None = None
        self._early = b""
        """Bytes that came before TLS was all set."""
        self._in_head, self._is_whole = False, True
        self._is_last = False
        """Whether the connection ends with the answer to this request, whatever is behind it."""
        self._received = self._header_bytes = self._chunks = 0

    # --- the connection -------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if not self._port.places.take(self):
            self._port.on_refused(FULL.status)
            transport.write(answer(FULL))
            transport.close()
            return
        if self._port.tls is None:
            self._open(transport)
            return
        transport.pause_reading()
        self.connections.add(self)
        self._enter(Phase.HANDSHAKE)
        self._securing = self.loop.create_task(self._secure(transport, self._port.tls()))

    async def _secure(self, transport: Any, context: ssl.SSLContext) -> None:
        """Agree on TLS. The loop's own way counts no connection before, and waits for a minute."""
        try:
            secure = await self.loop.start_tls(transport, self, context, server_side=True)
        except (OSError, asyncio.CancelledError):
            self._ended()
            return
        if secure is None or secure.is_closing():
            self._ended()
            return
        self._securing = None
        self._open(secure)
        if early := self._early:
            self._early = b""
            self.data_received(early)

    def _open(self, transport: Any) -> None:
        super().connection_made(transport)
        self._enter(Phase.NEW)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()
        super().connection_lost(exc)
        # The client is gone: whatever runs for it ends now, not when an answer cannot be sent.
        for call in list(self._calls):
            call.cancel()

    def give_way(self) -> None:
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_unread = True
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_unread = False
        self._settle()

    # --- what comes -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._securing is not None:
            self._early += data
            return
        self._unset_keepalive_if_required()
        self._received += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.refusal if isinstance(cause, RefusedError) else NO_HTTP)
            return
        most = _HEAD_BYTES if self._in_head else 2 * (_HEAD_BYTES + self._port.max_body_bytes)
        if self._received > most and not self._is_whole:
            self._refuse(LARGE_HEAD if self._in_head else LARGE_BODY)
            return
        self._settle()

    def _feed(self, data: bytes) -> None:
        if self._is_last and self._is_whole:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._is_last:
                return
            # Such as h2c, which is not for this server. Its parser takes no body then; this one does.
            self._is_last = True
            self.parser = httptools.HttpRequestParser(_Rest(self))
            self._feed(_head_of_rest(self.headers) + data[upgrade.args[0] :])

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _PIPELINED:
            raise RefusedError(PIPELINE)
        super().on_message_begin()
        self._in_head, self._is_whole = True, False
        # The first bytes came with those of the request before: they are not counted.
        self._received = self._header_bytes = self._chunks = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            raise RefusedError(LONG_URL)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        # Those after a chunked body count, too.
        if len(self.headers) > _HEADERS or self._header_bytes > _HEAD_BYTES:
            raise RefusedError(LARGE_HEAD)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > CHUNKS:
            raise RefusedError(MANY_CHUNKS)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # of its body nothing has been read yet
        self._is_whole = True
        super().on_message_complete()

    # --- what is answered -----------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._settle()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        call = self.loop.create_task(cycle.run_asgi(app))
        for calls in (self.tasks, self._calls):
            calls.add(call)
            call.add_done_callback(calls.discard)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what is no request, unless another one is being answered, and close."""
        self._port.on_refused(refusal.status)
        if self._phase is Phase.REST:  # its answer has been given
            self.transport.close()
            self._enter(Phase.CLOSING)
            return
        running = self.cycle is not None and not self.cycle.response_complete
        if running and (self.cycle.response_started or len(self._calls) > 1 or self.pipeline):
            self.transport.abort()
            return
        self.transport.write(answer(refusal))
        self.transport.close()
        self._enter(Phase.CLOSING)

    # --- phases ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        if (phase := self._phase_now()) is not self._phase:
            self._enter(phase)

    def _phase_now(self) -> Phase:
        if self.transport.is_closing():
            return Phase.CLOSING
        if self._is_unread:
            return Phase.UNREAD
        is_running = self.cycle is not None and not self.cycle.response_complete
        if is_running:
            return Phase.ANSWER if self._is_whole or self._in_head else Phase.BODY
        if self._in_head:
            return Phase.HEAD
        if self.cycle is None:
            return Phase.NEW
        return Phase.IDLE if self._is_whole else Phase.REST

    def _enter(self, phase: Phase) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._phase = phase
        self._port.places.move(self, phase)
        if (seconds := MOST_S.get(phase)) is not None:
            self._late = self.loop.call_later(seconds, self._is_late)

    def _is_late(self) -> None:
        if self._phase in (Phase.HEAD, Phase.BODY):
            self._refuse(SLOW)
        elif self._phase in (Phase.NEW, Phase.IDLE):
            self.transport.close()
            self._enter(Phase.CLOSING)
        else:
            self.transport.abort()

    def _ended(self) -> None:
        """Let go of the place and the timers."""
        self.connections.discard(self)
        self._port.places.leave(self)
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Rest:
    """Receiver of the body of a request whose head has been read by another parser."""

    def __init__(self, connection: Connection) -> None:
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete
        self.on_chunk_header = connection.on_chunk_header


def _head_of_rest(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Make a head with what says how long a body is."""
    told = [
        b": ".join(one) for one in headers if one[0] in (b"content-length", b"transfer-encoding")
    ]
    return b"\r\n".join([b"POST / HTTP/1.1", *told, b"", b""])
