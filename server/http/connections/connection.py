"""Connections of the HTTP port: uvicorn's protocol, with bounds on what clients may send and take."""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from ssl import SSLContext
from typing import Any

import httptools

from .keep_alive import KeepAlive
from .offers import Rest, head_of_rest
from .places import MOST_S, Phase, Port
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
_AHEAD_BYTES = 64 << 10
"""Bytes behind a request that is being answered after which no more are read."""


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
        self._answering: Any = None
        """Cycle whose call has begun last; uvicorn's `cycle` is that of the newest request."""
        self._securing: asyncio.Task[None] | None = None
        self._early = b""
        """Bytes that came before TLS was all set."""
        self._in_head, self._is_whole = False, True
        self._is_last = False
        """Whether the connection ends with the answer to this request, whatever is behind it."""
        self._received = self._header_bytes = self._chunks = self._ahead = 0

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

    async def _secure(self, transport: Any, context: SSLContext) -> None:
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
        self._end_calls()  # now, not when an answer cannot be sent

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
        self._received += len(data)
        if self.is_left:
            if self._received > self._most_bytes():
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.refusal if isinstance(cause, RefusedError) else NO_HTTP)
            return
        if self._received > self._most_bytes() and not self._is_whole:
            self._refuse(LARGE_HEAD if self._in_head else LARGE_BODY)
            return
        self._read_on(len(data))
        self._settle()

    def _most_bytes(self) -> int:
        """Bytes of a request, in any form; behind its answer they may be more: nobody keeps them."""
        if self._in_head and not self.is_left:
            return _HEAD_BYTES
        times = 4 if self.is_left or self._phase is Phase.REST else 2
        return times * (_HEAD_BYTES + self._port.max_body_bytes)

    def _read_on(self, size: int) -> None:
        """Undo uvicorn's pauses: who is not read from is not seen to go."""
        self._ahead = self._ahead + size if self.pipeline else 0
        is_body_read = self._is_whole or self._in_head or bool(self.pipeline)
        has_room = len(self.pipeline) < _PIPELINED and self._ahead <= _AHEAD_BYTES
        if is_body_read and has_room:
            self.flow.resume_reading()

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
            self.parser = httptools.HttpRequestParser(Rest(self))
            self._feed(head_of_rest(self.headers) + data[upgrade.args[0] :])

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
        self._answering = cycle
        call = self.loop.create_task(cycle.run_asgi(app))
        for calls in (self.tasks, self._calls):
            calls.add(call)
            call.add_done_callback(calls.discard)

    def _end_calls(self) -> None:
        """End what runs: nobody waits for it, or will be answered."""
        self.pipeline.clear()
        if self._answering is not None:
            self._answering.disconnected = True
        for call in list(self._calls):
            call.cancel()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what is no request, unless another one is being answered, and close."""
        self._port.on_refused(refusal.status)
        if self._is_running() and (
            self.cycle.response_started or self.pipeline or self._in_head or self._is_whole
        ):
            self.transport.abort()
            return
        if self._phase is not Phase.REST:  # its answer has been given
            self.transport.write(answer(refusal))
        self._end_calls()
        self.leave()

    def leave(self) -> None:
        super().leave()
        self._settle()

    # --- phases ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        if (phase := self._phase_now()) is not self._phase:
            self._enter(phase)

    def _phase_now(self) -> Phase:
        if self.is_left or self.transport.is_closing():
            return Phase.CLOSING
        if self._is_unread:
            return Phase.UNREAD
        if self._is_running():
            return Phase.ANSWER if self._is_whole or self._in_head else Phase.BODY
        if self._in_head:
            return Phase.HEAD
        if self.cycle is None:
            return Phase.NEW
        return Phase.IDLE if self._is_whole else Phase.REST

    def _is_running(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

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
