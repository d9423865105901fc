"""The process of `loramux placement`, until a signal ends it."""

from __future__ import annotations

import signal
import socket
import sys
from types import FrameType

import structlog
import uvicorn

from ..logs import configure
from .app import PlacementApp
from .placer import Placer
from .settings import Settings

log = structlog.get_logger("loramux.placement")

_MOST_CONNECTIONS = 256
_STOP_S = 2


def run(settings: Settings, host: str, port: int, log_format: str) -> None:
    """Serve until SIGTERM or SIGINT. Ends the process with status 1 where the port is taken."""
    configure(log_format, "info")
    try:
        listener = _listen(host, port)
    except OSError as error:
        log.error("port cannot be had", host=host, port=port, reason=error.strerror or str(error))
        sys.exit(1)
    config = uvicorn.Config(
        PlacementApp(Placer(settings)).routes,
        log_config=None,
        access_log=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_S,
        server_header=False,
    )
    log.info(
        "placing",
        replicas=[str(target) for target in settings.targets],
        address=f"{host}:{listener.getsockname()[1]}",
        interval_s=settings.interval_s,
    )
    # Once it has ended its connections, uvicorn raises the signal again.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    uvicorn.Server(config).run(sockets=[listener])


def _end(number: int, frame: FrameType | None) -> None:
    log.info("stopped")
    sys.exit(0)


def _listen(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    return listener
