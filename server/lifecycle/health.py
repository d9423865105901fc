"""Health checks: readiness under "" and each service's name, liveness under "live"."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from .readiness import Readiness, ServerState

LIVE = "live"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Health of the server.

    Ready: what `readiness` says. Live: listening, and the engine has neither failed nor stalled. A
    draining server is live but not ready, so that a probe does not kill it while requests finish.
    """

    def __init__(self, services: Sequence[str], readiness: Readiness) -> None:
        self._ready_names = ("", *services)
        self._servicer = health.aio.HealthServicer()
        self._readiness = readiness
        self._showing = asyncio.Lock()

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def draining(self) -> None:
        self._readiness.draining()
        await self.show()

    async def failed(self) -> None:
        self._readiness.failed()
        await self.show()

    async def stalled(self) -> None:
        """Turn everything off until `recovered`."""
        self._readiness.stalled(True)
        await self.show()

    async def recovered(self) -> None:
        """Show again what was before `stalled`, or has come since."""
        self._readiness.stalled(False)
        await self.show()

    async def show(self) -> None:
        """Show the state as it is by now."""
        async with self._showing:  # one after the other: the last one shows what is so then
            live, ready = self._readiness.is_live, self._readiness.state is ServerState.READY
            await self._servicer.set(LIVE, _SERVING if live else _NOT_SERVING)
            for name in self._ready_names:
                await self._servicer.set(name, _SERVING if ready else _NOT_SERVING)
