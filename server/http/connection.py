"""Connections of the HTTP port: uvicorn's protocol, whose calls end with their clients."""

from __future__ import annotations

import asyncio
from typing import Any

from .keep_alive import KeepAlive


class Connection(KeepAlive):
    """Connection of one client."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._calls: set[asyncio.Task[None]] = set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # The client is gone: whatever runs for it ends now, not when an answer cannot be sent.
        for call in list(self._calls):
            call.cancel()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        call = self.loop.create_task(cycle.run_asgi(app))
        for calls in (self.tasks, self._calls):
            calls.add(call)
            call.add_done_callback(calls.discard)
