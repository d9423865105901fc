"""The HTTP port: uvicorn in the event loop that gRPC runs in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from .connection import Connection
from .keep_alive import Farewell

_BACKLOG = 256
"""Connections taken in one turn of the event loop, at most."""
_SEND_BYTES = 256 << 10
"""Bytes that the kernel keeps of an answer whose client does not read."""


class HttpServer:
    """HTTP port of one server."""

    def __init__(self, app: ASGIApp, connection_age_s: float = 0) -> None:
        """Make it; `connection_age_s`: 0 where connections do not end by age."""
        self.farewell = Farewell(connection_age_s)
        config = uvicorn.Config(
            app,
            http=cast(Any, partial(Connection, farewell=self.farewell)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self.port = 0

    @property
    def connections(self) -> list[Connection]:
        """Connections of now."""
        return cast(list[Connection], list(self._server.server_state.connections))

    def bind(self, host: str, port: int) -> None:
        """Take the port, and refuse connections until `listen`. Raises OSError."""
        self._listener = _listener(host, port)
        self.port = int(self._listener.getsockname()[1])

    async def listen(self) -> None:
        """Take connections on the port that was bound. Raises OSError."""
        assert self._listener is not None
        self._listener.listen(_BACKLOG)  # uvicorn does so too, but tells no error
        self._serving = asyncio.create_task(self._server.serve([self._listener]))
        await self._server.listening.wait()

    async def start(self, host: str, port: int) -> None:
        """Bind and listen. Raises OSError."""
        self.bind(host, port)
        await self.listen()

    def close_port(self) -> None:
        """Take no new connections; those that stand stay."""
        for server in self._server.servers:
            server.close()

    async def stop(self) -> None:
        """End all connections and the port."""
        if self._serving is None:
            if self._listener is not None:
                self._listener.close()
            return
        for connection in self.connections:
            connection.transport.abort()
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    """Server that leaves the process's signals alone, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listener(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
