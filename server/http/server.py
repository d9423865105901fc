"""The HTTP port: uvicorn in the event loop that gRPC runs in."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from .connection import Connection, Port
from .keep_alive import Farewell
from .places import MOST_S, Phase, Places

_BACKLOG = 256
"""Connections taken in one turn of the event loop, at most."""
_SEND_BYTES = 256 << 10
"""Bytes that the kernel keeps of an answer whose client does not read."""
_MOST_CONNECTIONS = 4096


class HttpServer:
    """HTTP port of one server."""

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        on_refused: Callable[[int], None],
        tls: Callable[[], ssl.SSLContext] | None = None,
        connection_age_s: float = 0,
    ) -> None:
        """Take the application. `tls`: what gives the context for a new connection;
        `connection_age_s`: 0 where connections do not end by age."""
        self._places = Places(_most_connections())
        self.farewell = Farewell(connection_age_s)
        port = Port(self._places, max_body_bytes, on_refused, tls)
        config = uvicorn.Config(
            app,
            http=cast(Any, partial(Connection, port, farewell=self.farewell)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=int(MOST_S[Phase.IDLE]),
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self.port = 0

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self._places)

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


def _most_connections() -> int:
    """Most connections: half of what the system lets the process open at once, at most."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(_MOST_CONNECTIONS, files // 2)


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
