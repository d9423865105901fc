"""Health checks: readiness under "" and each service's name, liveness under "live"."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from .readiness import Readiness, ServerState

LIVE = "live"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Health of the server.

    Ready: what `readiness` says. Live: listening, and the engine has not failed. A
    draining server is live but not ready, so that a probe does not kill it while requests finish.
    """

    def __init__(self, services: Sequence[str], readiness: Readiness) -> None:
        self._ready_names = ("", *services)
        self._servicer = health.aio.HealthServicer()
        self._readiness = readiness

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def listening(self) -> None:
        await self._servicer.set(LIVE, _SERVING)
        await self._set_ready(_NOT_SERVING)

    async def ready(self) -> None:
        """Turn ready where the server is; it may be draining by now, or wait for adapters."""
        if self._readiness.state is ServerState.READY:
            await self._set_ready(_SERVING)

    async def draining(self) -> None:
        self._readiness.draining()
        await self._set_ready(_NOT_SERVING)

    async def failed(self) -> None:
        self._readiness.failed()
        await self._set_ready(_NOT_SERVING)
        await self._servicer.set(LIVE, _NOT_SERVING)

    async def _set_ready(self, status: int) -> None:
        for name in self._ready_names:
            await self._servicer.set(name, status)
