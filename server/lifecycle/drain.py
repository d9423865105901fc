"""The end of serving: clients are moved to other servers without a failed call, then cut off."""

from __future__ import annotations

import asyncio
import time

import grpc

from ..grpc.calls import CallInterceptor
from .connections import close, connections, silent_s, stop_listening
from .running_calls import RunningCalls

_LOOK_S = 0.05
_PAUSES = 4
"""Pause after a look at all connections, in times what the look took: calls go on in between only."""
_SILENT_S = 1.0
"""Seconds after which a client without a call is taken to have none on its way."""
_JITTER = 1.1
"""gRPC ends connections at their age plus or minus a tenth (gRFC A9)."""
_QUIET_S, _QUIET_AT_MOST_S = 0.05, 0.5
_GOAWAY_S = 0.05
_ANSWER_S = 1.0
"""Seconds for the answers of calls that were ended."""
_NEVER_S = 1e6


class Drain:
    """Drain of one gRPC server.

    gRPC's own way, `Server.stop`, tells clients to go (GOAWAY) and drops what they sent before they
    heard of it: such calls end as CANCELLED. So connections end by their age first, on which gRPC
    serves such calls, and what is left at `stop` is held still until clients have heard.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        port: int,
        calls: CallInterceptor,
        running: RunningCalls,
        connection_age_s: float,
    ) -> None:
        """Take the server's parts. `connection_age_s`: 0 where connections do not end by age."""
        self._server, self._port = server, port
        self._calls, self._running = calls, running
        self._age_s = connection_age_s
        self._stopping: asyncio.Future[None] | None = None

    async def finish_calls(self, seconds: float) -> None:
        """Take no new connections, send clients away, and let running calls end for `seconds`."""
        until = time.monotonic() + seconds
        stop_listening(self._port)
        # Those with clients that stay are told to go while there is time for their calls to end.
        clients_left = await self._let_go(min(self._age_s * _JITTER, seconds / 2))
        if clients_left:
            await self._send_away()
        await self._calls_end(until)

    async def cut_off(self) -> None:
        """End what is left. Calls fail as UNAVAILABLE: gRPC alone would end them as CANCELLED."""
        await self._calls_end(time.monotonic() + _ANSWER_S)
        with connections(self._port) as found:
            for connection in found.values():
                close(connection)
        await self._server.stop(None)

    async def _calls_end(self, until: float) -> None:
        """Wait until none has been seen at two looks: one that has just arrived does not count yet."""
        seen = True
        while seen and time.monotonic() < until:
            seen = bool(self._running.count)
            await asyncio.sleep(_LOOK_S)
            seen = seen or bool(self._running.count)

    async def _let_go(self, seconds: float) -> bool:
        """Wait until clients' connections have ended, by age or since they are not used; False if
        all have."""
        until = time.monotonic() + seconds
        while True:
            begun = time.monotonic()
            clients_left = self._close_silent()
            now = time.monotonic()
            if not clients_left or now >= until:
                return clients_left
            await asyncio.sleep(max(_LOOK_S, (now - begun) * _PAUSES))

    def _close_silent(self) -> bool:
        """Close connections that nobody uses; True if others are left."""
        calling = self._running.clients()
        with connections(self._port) as found:
            used = {
                client
                for client, connection in found.items()
                # A call of an unknown client may be anybody's.
                if client in calling or None in calling or silent_s(connection) < _SILENT_S
            }
            for client, connection in found.items():
                if client not in used:
                    close(connection)
        return bool(used or self._running.count)

    async def _send_away(self) -> None:
        """Send GOAWAY on all connections, at a moment when no call is on its way."""
        self._calls.hold()
        try:
            await self._silence()
            self._stopping = asyncio.ensure_future(self._server.stop(_NEVER_S))
            await asyncio.sleep(_GOAWAY_S)
        finally:
            self._calls.release()

    async def _silence(self) -> None:
        """Wait until no call has begun for a while: each client waits for answers that are held."""
        until, arrived = time.monotonic() + _QUIET_AT_MOST_S, -1
        while arrived != self._calls.arrived and time.monotonic() < until:
            arrived = self._calls.arrived
            await asyncio.sleep(_QUIET_S)
