"""The server's life: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import signal
from wsgiref.simple_server import WSGIServer

import grpc
import structlog
from grpc_health.v1 import health
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

from lora_runtime import Engine, EngineObserver

from .auth.interceptor import TokenInterceptor
from .auth.tokens import AuthFileError, TokenFile
from .calls import CallInterceptor
from .config import Settings
from .declared import DeclaredAdapters, DeclaredGauges, DeclaredStatus
from .ending import end_soon, exit_now
from .errors import LoadingError
from .health import Health
from .locations import Locations
from .logs import RequestLog
from .metrics import Metrics
from .policies import SettingsPolicies
from .services.adapters import AdaptersService
from .services.inference import InferenceService
from .services.server_info import ServerInfoService
from .tls import TLSError, is_loopback
from .transport import add_port, channel_options

log = structlog.get_logger("loramux.server")
_OWN_SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    adapters_pb2.DESCRIPTOR.services_by_name["Adapters"].full_name,
    server_pb2.DESCRIPTOR.services_by_name["Server"].full_name,
)


class _FailureWatch(EngineObserver):
    """Watch that turns health off when the engine dies; called on the engine thread."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._loop = asyncio.get_running_loop()

    def on_engine_failed(self, error: BaseException) -> None:
        asyncio.run_coroutine_threadsafe(self._health.failed(), self._loop)


class App:
    """One gRPC server and the engine behind it."""

    def __init__(self, settings: Settings) -> None:
        """Make the gRPC server. Raises AuthFileError."""
        self.settings = settings
        self.port = 0
        self.metrics = Metrics(settings.metrics_adapter_labels)
        self._engine: Engine | None = None
        self._is_open = False
        self._declared: DeclaredAdapters | None = None
        self._health = Health(_OWN_SERVICES)
        self._adapters = AdaptersService(
            lambda: self.engine,
            Locations(settings.adapter_roots, settings.adapter_sources),
            self._declared_status,
            settings.max_message_bytes,
        )
        self._server = grpc.aio.server(
            options=channel_options(settings), interceptors=self._interceptors()
        )
        self._probes = (
            grpc.aio.server(
                options=channel_options(settings), interceptors=[CallInterceptor([self.metrics])]
            )
            if settings.health_port
            else None
        )
        self._metrics_server: WSGIServer | None = None

    @property
    def engine(self) -> Engine:
        """Give the engine.

        Raises LoadingError (UNAVAILABLE) while the base is loading and ids are restored.
        """
        if self._engine is None or not self._is_open:
            raise LoadingError("the server is still loading the base model")
        return self._engine

    async def listen(self) -> None:
        """Open the ports.

        Health is NOT_SERVING until `load` is done. Raises RuntimeError, OSError, TLSError.
        """
        await self._health.listening()
        self._add_services()
        host = self.settings.host
        self.port = add_port(self._server, self.settings)
        await self._server.start()
        if self._probes is not None:
            self._health.add_to(self._probes)
            self._probes.add_insecure_port(f"{host}:{self.settings.health_port}")
            await self._probes.start()
        if self.settings.metrics_port:
            self._metrics_server, _ = start_http_server(
                self.settings.metrics_port, host, registry=self.metrics.registry
            )
        log.info(
            "listening",
            address=f"{host}:{self.port}",
            metrics_port=self.settings.metrics_port,
            tls=self.settings.tls_cert is not None,
            tokens=self.settings.auth_file is not None,
        )

    async def load(self) -> None:
        """Load the base, warm up, load adapters.

        Health turns to SERVING once all that are declared serve. Raises StateFileError and what the
        engine raises.
        """
        log.info("loading base model", base=self.settings.base)
        engine = await asyncio.to_thread(Engine, self.settings.base, self.settings.engine_config())
        engine.add_observer(RequestLog(self.settings.log_requests))
        engine.add_observer(_FailureWatch(self._health))
        engine.start()
        await asyncio.to_thread(engine.warm_up)
        self.metrics.attach(engine)
        policies = {name: policy.to_engine() for name, policy in self.settings.policies.items()}
        settings_policies = SettingsPolicies(engine, policies)
        engine.add_observer(settings_policies)
        for name, path in self.settings.adapters.items():
            await asyncio.to_thread(engine.load_adapter, path, name)
        self._engine = engine
        self._declared = self._declare(engine, settings_policies)
        self.metrics.registry.register(DeclaredGauges(self._declared))
        await asyncio.to_thread(self._declared.restore)
        self._is_open = True
        self._declared.start()
        if self._declared.ready:
            await self._health.ready()
        info = engine.info()
        log.info(
            "serving",
            base=info.base_model,
            device=info.device,
            dtype=info.dtype,
            kernels=info.kernels,
            kv_blocks=info.kv_blocks,
            max_context=info.max_context,
        )

    async def stop(self) -> None:
        """Refuse new calls, let running ones finish for `drain_s` seconds, cancel the rest."""
        await self._health.draining()
        self._adapters.close()
        if self._engine is not None:
            log.info("draining", seconds=self.settings.drain_s)
            self._engine.stop_admitting()
        if self._declared is not None:
            await asyncio.to_thread(self._declared.stop_following)
        if self._engine is not None:
            await asyncio.to_thread(self._engine.shutdown, self.settings.drain_s)
        await self._server.stop(grace=1)
        # The state file follows the engine as long as a call may be answered.
        if self._declared is not None:
            await asyncio.to_thread(self._declared.stop)
        if self._probes is not None:
            await self._probes.stop(grace=0)
        if self._metrics_server is not None:
            self._metrics_server.shutdown()
        log.info("stopped")

    def _declare(self, engine: Engine, settings_policies: SettingsPolicies) -> DeclaredAdapters:
        settings, loop = self.settings, asyncio.get_running_loop()

        def on_ready_changed(ready: bool) -> None:
            # Once ready, always: an adapter that is declared later and cannot be loaded must not
            # take the server away from those who use the others.
            if ready:
                asyncio.run_coroutine_threadsafe(self._health.ready(), loop)

        return DeclaredAdapters(
            engine,
            manifest=settings.adapter_manifest,
            directory=settings.adapter_watch,
            state_file=settings.state_file,
            reconcile_s=settings.reconcile_s,
            load_threads=settings.engine_config().adapter_load_threads,
            static_names=settings.adapters.keys(),
            on_ready_changed=on_ready_changed,
            to_save=settings_policies.without_own,
        )

    def _declared_status(self) -> list[DeclaredStatus]:
        return [] if self._declared is None else self._declared.status()

    def _interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        calls = CallInterceptor([self.metrics])
        if self.settings.auth_file is None:
            return [calls]
        tokens = TokenFile(self.settings.auth_file)
        if self.settings.tls_cert is None and not is_loopback(self.settings.host):
            log.warning(
                "bearer tokens without TLS: anyone on the way can read them",
                host=self.settings.host,
            )
        return [calls, TokenInterceptor(tokens, self.metrics.call_refused)]

    def _add_services(self) -> None:
        def engine() -> Engine:
            return self.engine

        inference_pb2_grpc.add_InferenceServicer_to_server(InferenceService(engine), self._server)
        adapters_pb2_grpc.add_AdaptersServicer_to_server(self._adapters, self._server)
        server_pb2_grpc.add_ServerServicer_to_server(
            ServerInfoService(engine, self.settings.max_message_bytes), self._server
        )
        self._health.add_to(self._server)
        reflection.enable_server_reflection(
            (*_OWN_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the process's exit status. A second signal ends it at once."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            exit_now(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        app = App(settings)
        await app.listen()
    except (RuntimeError, OSError, AuthFileError, TLSError) as error:
        # Such as a port that is taken, or a bad file.
        log.error("the server cannot listen", error=str(error))
        return 1
    loading = asyncio.ensure_future(app.load())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and (failure := loading.exception()) is not None:
        log.error("the server could not start", error=str(failure), kind=type(failure).__name__)
        status = 1
    else:
        await stopping
        status = 0
        # A thread that loads cannot be interrupted; `end_soon` leaves it behind.
        await asyncio.wait({loading}, timeout=settings.drain_s)
        loading.cancel()
        await asyncio.wait({loading})
    await app.stop()
    end_soon(status)
    return status
