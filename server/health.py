"""Health checks: readiness under "" and each service's name, liveness under "live"."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

LIVE = "live"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Health of the server.

    Ready: everything that was declared serves. Live: listening, and the engine has neither failed
    nor stalled; a server that is not live is not ready. A draining server is live but not ready, so
    that a probe does not kill it while requests finish.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._ready_names = ("", *services)
        self._servicer = health.aio.HealthServicer()
        self._is_ready = self._over = self._failed = self._stalled = False
        self._showing = asyncio.Lock()

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def listening(self) -> None:
        await self._show()

    async def ready(self) -> None:
        """Turn ready; without effect once the server drains or its engine has failed."""
        self._is_ready = True
        await self._show()

    async def draining(self) -> None:
        self._over = True
        await self._show()

    async def failed(self) -> None:
        self._failed = True
        await self._show()

    async def stalled(self) -> None:
        """Turn everything off until `recovered`."""
        self._stalled = True
        await self._show()

    async def recovered(self) -> None:
        """Show again what was before `stalled`, or has come since."""
        self._stalled = False
        await self._show()

    async def _show(self) -> None:
        async with self._showing:  # one after the other: the last one shows what is so then
            live = not (self._failed or self._stalled)
            ready = live and self._is_ready and not self._over
            await self._servicer.set(LIVE, _SERVING if live else _NOT_SERVING)
            for name in self._ready_names:
                await self._servicer.set(name, _SERVING if ready else _NOT_SERVING)
