"""The end of serving over HTTP: clients are told to go, then waited for, then cut off."""

from __future__ import annotations

import asyncio
import time

from ...lifecycle.connections import turn_away
from .server import HttpServer

_HANDSHAKE_S = 0.1
"""Seconds for those to connect who are about to, when nobody else may."""
_SILENT_S = 5.5
"""Seconds after which an idle connection is taken to be left alone. Clients of OpenAI's API use one
that is idle for 5 seconds no more, and those that would have had `drain_delay_s` to be told."""
_LOOK_S = 0.05
_ANSWER_S = 1.0
"""Seconds for the answers of calls that were ended."""


class HttpDrain:
    """Drain of one HTTP port."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    def tell(self) -> None:
        """Send clients away with their next answers; whoever comes is still served."""
        self._server.farewell.ends = True
        for connection in self._server.connections:
            connection.tell()

    async def finish_calls(self, seconds: float) -> None:
        """Take no new connections, and let clients finish and hear of the end for `seconds`."""
        until = time.monotonic() + seconds
        turn_away(self._server.port)
        await asyncio.sleep(min(_HANDSHAKE_S, seconds))
        self._server.close_port()
        silent_s = min(_SILENT_S, seconds / 2)
        while self._server.connections and time.monotonic() < until:
            for connection in self._server.connections:
                connection.end_if_idle(silent_s)
            await asyncio.sleep(_LOOK_S)

    async def cut_off(self) -> None:
        """End what is left, once its calls have been ended: their errors go out first."""
        until = time.monotonic() + _ANSWER_S
        while time.monotonic() < until and not all(c.idle_s for c in self._server.connections):
            await asyncio.sleep(_LOOK_S)
        for connection in self._server.connections:
            connection.transport.close()
