"""Health checks: readiness under "" and each service's name, liveness under "live"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .readiness import Readiness, ServerState

LIVE = "live"
_Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """Health of the server; used on the event loop alone.

    Ready: what `readiness` says. Live: listening, and the engine has neither failed nor stalled. A
    draining server is live but not ready, so that a probe does not kill it while requests finish.

    What is shown are values and an event, without a lock: a client that does not read its Watch
    waits for itself alone. (grpc_health's own servicer writes with the status' lock held.)
    """

    def __init__(self, services: Sequence[str], readiness: Readiness) -> None:
        self._ready_names = frozenset(("", *services))
        self._readiness = readiness
        self._changed = asyncio.Event()
        self._is_live = self._is_ready = False

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        status = self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _Status(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            changed = self._changed  # before the look: what comes after it is not missed
            if (status := self._status(request.service)) != last:
                last = status
                yield _Status(status=status)
            await changed.wait()

    def draining(self) -> None:
        self._readiness.draining()
        self.show()

    def failed(self) -> None:
        self._readiness.failed()
        self.show()

    def stalled(self) -> None:
        """Turn everything off until `recovered`."""
        self._readiness.stalled(True)
        self.show()

    def recovered(self) -> None:
        """Show again what was before `stalled`, or has come since."""
        self._readiness.stalled(False)
        self.show()

    def show(self) -> None:
        """Show the state as it is by now."""
        self._is_live = self._readiness.is_live
        self._is_ready = self._readiness.state is ServerState.READY
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service != LIVE and service not in self._ready_names:
            return _Status.SERVICE_UNKNOWN
        serves = self._is_live if service == LIVE else self._is_ready
        return _Status.SERVING if serves else _Status.NOT_SERVING
