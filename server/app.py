"""The server's life: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import os
import signal
from wsgiref.simple_server import WSGIServer

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from loramux.v1 import (
    adapters_pb2,
    adapters_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)
from prometheus_client import start_http_server

from lora_runtime import Engine, EngineObserver, EngineStoppedError

from .config import Settings
from .logs import RequestLog
from .metrics import Metrics
from .services.adapters import AdaptersService
from .services.inference import InferenceService
from .services.server_info import ServerInfoService

log = structlog.get_logger("loramux.server")
_OWN_SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    adapters_pb2.DESCRIPTOR.services_by_name["Adapters"].full_name,
    server_pb2.DESCRIPTOR.services_by_name["Server"].full_name,
)
_STATUS = health_pb2.HealthCheckResponse


class _FailureWatch(EngineObserver):
    """Turns health off when the engine dies; called on the engine thread."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._loop = asyncio.get_running_loop()

    def on_engine_failed(self, error: BaseException) -> None:
        asyncio.run_coroutine_threadsafe(self._app.set_health(_STATUS.NOT_SERVING), self._loop)


class App:
    """One gRPC server and the engine behind it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.port = 0
        self.metrics = Metrics(settings.metrics_adapter_labels)
        self._engine: Engine | None = None
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_channel_options(settings))
        self._metrics_server: WSGIServer | None = None

    @property
    def engine(self) -> Engine:
        """Raises EngineStoppedError (UNAVAILABLE) while the base is loading."""
        if self._engine is None:
            raise EngineStoppedError("the server is still loading the base model")
        return self._engine

    async def listen(self) -> None:
        """Open the ports. Health is NOT_SERVING until `load` is done."""
        await self.set_health(_STATUS.NOT_SERVING)
        self._add_services()
        address = f"{self.settings.host}:{self.settings.port}"
        self.port = self._server.add_insecure_port(address)
        await self._server.start()
        if self.settings.metrics_port:
            self._metrics_server, _ = start_http_server(
                self.settings.metrics_port, self.settings.host, registry=self.metrics.registry)
        log.info("listening", address=f"{self.settings.host}:{self.port}", metrics_port=self.settings.metrics_port)

    async def load(self) -> None:
        """Load the base and the declared adapters, warm up, then turn health to SERVING."""
        log.info("loading base model", base=self.settings.base)
        engine = await asyncio.to_thread(Engine, self.settings.base, self.settings.engine_config())
        engine.add_observer(RequestLog())
        engine.add_observer(_FailureWatch(self))
        engine.start()
        await asyncio.to_thread(engine.warm_up)
        self.metrics.attach(engine)
        for name, path in self.settings.adapters.items():
            await asyncio.to_thread(engine.load_adapter, path, name)
        self._engine = engine
        await self.set_health(_STATUS.SERVING)
        info = engine.info()
        log.info("serving", base=info.base_model, device=info.device, dtype=info.dtype, kernels=info.kernels,
                 kv_blocks=info.kv_blocks, max_context=info.max_context)

    async def stop(self) -> None:
        """Refuse new calls, let running ones finish for `drain_s` seconds, cancel the rest."""
        await self._health.enter_graceful_shutdown()
        if self._engine is not None:
            log.info("draining", seconds=self.settings.drain_s)
            self._engine.stop_admitting()
            await asyncio.to_thread(self._engine.shutdown, self.settings.drain_s)
        await self._server.stop(grace=1)
        if self._metrics_server is not None:
            self._metrics_server.shutdown()
        log.info("stopped")

    async def set_health(self, status: int) -> None:
        """The overall health ("") and that of each service."""
        for name in ("", *_OWN_SERVICES):
            await self._health.set(name, status)

    def _add_services(self) -> None:
        def engine() -> Engine:
            return self.engine

        inference_pb2_grpc.add_InferenceServicer_to_server(InferenceService(engine), self._server)
        adapters_pb2_grpc.add_AdaptersServicer_to_server(
            AdaptersService(engine, self.settings.adapter_roots), self._server)
        server_pb2_grpc.add_ServerServicer_to_server(
            ServerInfoService(engine, self.settings.max_message_bytes), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*_OWN_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the process's exit status. A second signal ends it at once."""
    app, stop = App(settings), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        await app.listen()
    except (RuntimeError, OSError) as error:  # a port that is taken
        log.error("the server cannot listen", error=str(error))
        return 1
    loading = asyncio.ensure_future(app.load())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and (failure := loading.exception()) is not None:
        log.error("the server could not start", error=str(failure), kind=type(failure).__name__)
        await app.stop()
        return 1
    await stopping
    await asyncio.wait({loading})  # a thread that loads cannot be interrupted
    await app.stop()
    return 0


def _channel_options(settings: Settings) -> list[tuple[str, int]]:
    keepalive = int(settings.keepalive_s * 1000)
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", keepalive),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", min(keepalive, 10_000)),
        ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a share of the calls
    ]
