"""The HTTP front of one server: its application, its port, and the end of both."""

from __future__ import annotations

from functools import partial

from ..config import Settings
from ..metrics import Metrics
from ..transport import address, bare_host, https_contexts
from .app import OTHER, HttpApp
from .calls import Parts
from .connections.drain import HttpDrain
from .connections.server import HttpServer
from .cors import for_browsers
from .page.route import page_route


class HttpFront:
    """Front whose port opens when the engine is there, if it is to have one."""

    def __init__(self, settings: Settings, parts: Parts, metrics: Metrics) -> None:
        self._settings, self._parts, self._metrics = settings, parts, metrics
        page = page_route() if settings.page else None
        self.app = HttpApp(parts, metrics.http_ended, page=page)
        self.server: HttpServer | None = None
        self.drain: HttpDrain | None = None
        """Drain of the port, once it is open."""
        metrics.follow_http(
            lambda: self.app.open, lambda: self.server.open_connections if self.server else 0
        )

    def make_server(self) -> HttpServer:
        """Make a port for the application. Raises TLSError."""
        settings = self._settings
        contexts = https_contexts(settings, self._parts.threads.reading)
        return HttpServer(
            for_browsers(self.app, settings.http_cors_origins),
            settings.max_message_bytes,
            partial(self._metrics.http_ended, OTHER),
            contexts.newest if contexts else None,
            settings.max_connection_age_s,
        )

    def bind(self) -> None:
        """Take the port, and refuse connections until `listen`. Raises OSError, TLSError."""
        if self._settings.http_port:
            self.server = self.make_server()
            self.server.bind(bare_host(self._settings), self._settings.http_port)

    async def listen(self) -> None:
        """Take connections. Raises OSError."""
        if self.server is not None:
            await self.server.listen()
            self.drain = HttpDrain(self.server)

    @property
    def url(self) -> str | None:
        """Address that clients call; None without a port."""
        if self.server is None:
            return None
        scheme = "https" if self._settings.tls_cert else "http"
        return f"{scheme}://{address(self._settings, self._settings.http_port)}"

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop()
