"""The HTTP port: uvicorn in the event loop that gRPC runs in."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from .connection import Connection
from .keep_alive import Farewell
from .places import MOST_S, Phase, Places, Port, most_connections

_BACKLOG, _AT_ONCE = 256, 16
"""Connections that may wait to be taken, and those taken in one turn of the event loop: a flood's
requests come with them, and others' tokens wait for the turn to end."""
_SEND_BYTES = 256 << 10
"""Bytes that the kernel keeps of an answer whose client does not read."""
_TICK_S = 1.0
_END_S = 1.0
"""Seconds for calls to end whose connections have been closed."""


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
        self._places = Places(most_connections())
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
            backlog=_AT_ONCE,
            timeout_keep_alive=int(MOST_S[Phase.IDLE]),
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None
        self._listeners: list[socket.socket] = []
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
        self._listeners = _listeners(host, port)
        self.port = int(self._listeners[0].getsockname()[1])

    async def listen(self) -> None:
        """Take connections on the port that was bound. Raises OSError."""
        for listener in self._listeners:
            listener.listen(_BACKLOG)  # uvicorn does so too, but tells no error
        self._serving = asyncio.create_task(self._server.serve(self._listeners))
        await self._server.listening.wait()
        for listener in self._listeners:
            listener.listen(_BACKLOG)  # again: the event loop's own call has made it _AT_ONCE

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
        if self._serving is not None:
            for connection in self.connections:
                connection.transport.abort()
            self._server.end()
            await self._serving
        for listener in self._listeners:
            listener.close()


class _Server(uvicorn.Server):
    """Server that leaves the process's signals alone, tells when it listens, and ends at once."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening, self._ending = asyncio.Event(), asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Renew what each answer has, such as the date."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, and wait for what still runs; the connections have been closed."""
        for server in self.servers:
            server.close()
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=_END_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listeners(host: str, port: int) -> list[socket.socket]:
    """Bind to all addresses of a host, but for those that this machine lacks, such as localhost's
    without IPv6. Raises OSError."""
    found: list[socket.socket] = []
    problems: list[OSError] = []
    for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            found.append(_listener(family, (address[0], port or _port(found), *address[2:])))
        except OSError as error:
            problems.append(error)
    taken = [error for error in problems if error.errno == errno.EADDRINUSE]
    if taken or not found:
        for listener in found:
            listener.close()
        raise (taken or problems)[0]
    return found


def _port(listeners: list[socket.socket]) -> int:
    return int(listeners[0].getsockname()[1]) if listeners else 0


def _listener(family: int, address: tuple[Any, ...]) -> socket.socket:
    # The event loop sends small answers at once (TCP_NODELAY) where the protocol is named: else the
    # second write of an answer waits 40 ms for its client to acknowledge the first.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
