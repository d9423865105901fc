"""The server's life: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc

from lora_runtime import Engine, EngineStoppedError, RequestLimits

from . import metrics_port
from .auth.tokens import TokenFile
from .config import Settings
from .declared import DeclaredAdapters, DeclaredGauges, DeclaredStatus
from .gauges import ReadinessGauges
from .grpc.calls import CallInterceptor
from .http.access import Access
from .http.bodies.reading import Reader
from .http.calls import Parts
from .http.connections.drain import HttpDrain
from .http.front import HttpFront
from .http.metrics_page import MetricsPage
from .http.names import ModelNames
from .lifecycle.drain import Drain
from .lifecycle.ending import STEP_S
from .lifecycle.health import Health
from .lifecycle.readiness import Readiness
from .lifecycle.running_calls import RunningCalls
from .lifecycle.step_watch import FailureWatch, StepWatch
from .logs import RequestLog
from .metrics import Metrics
from .operations.operations import Operations
from .policies import SettingsPolicies
from .services.adapters import AdaptersService
from .services.front import (
    OWN_SERVICES,
    add_services,
    interceptors,
    probe_server,
    warn_of_plain_tokens,
)
from .services.inference import InferenceService
from .services.server_info import ServerInfoService
from .threads import Threads
from .tracing.start import start as start_traces
from .transport import (
    add_port,
    address,
    bare_host,
    check_port,
    credentials,
    named_port,
    serving_options,
)

log = structlog.get_logger("loramux.server")


class App:
    """One server: its fronts, and the engine behind them."""

    def __init__(self, settings: Settings) -> None:
        """Make the parts; no port is open yet. Raises AuthFileError."""
        self.settings = settings
        self.port = 0
        self.metrics = Metrics(settings.metrics_adapter_labels, settings.metrics_names)
        self._engine: Engine | None = None
        self._running = RunningCalls()
        self._tracing = start_traces(settings.otlp_traces_endpoint)
        self._calls = CallInterceptor([self._running, self.metrics], self._tracing)
        self.metrics.follow(self._calls)
        self._credentials: grpc.ServerCredentials | None = None
        self._drain: Drain | None = None
        self._declared: DeclaredAdapters | None = None
        self._readiness = Readiness(settings.ready_after_s)
        self.metrics.registry.register(ReadinessGauges(self._readiness))
        self._health = Health(OWN_SERVICES, self._readiness)
        self._threads = Threads()
        self._operations = Operations(
            settings, lambda: self.engine, self._readiness, self._threads, self._declared_status
        )
        self._adapters = AdaptersService(
            lambda: self.engine,
            self._operations.changes,
            self._declared_status,
            self._operations.pages,
            self._operations.reads,
        )
        self._inference = InferenceService(
            lambda: self.engine,
            self._operations.submission,
            self._threads,
            settings.max_message_bytes,
        )
        self._tokens = TokenFile(settings.auth_file) if settings.auth_file else None
        self.http = HttpFront(settings, self._http_parts(), self.metrics)
        through = interceptors(
            self._calls, self._request_limits, self._tokens, self.metrics.call_refused
        )
        self._server = grpc.aio.server(options=serving_options(settings), interceptors=through)
        self._probes = (
            probe_server(settings, self.metrics, self._request_limits)
            if settings.health_port
            else None
        )
        if self._tokens is not None:
            warn_of_plain_tokens(settings)
        self._metrics_server: metrics_port.MetricsServer | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def engine(self) -> Engine:
        """Give the engine. Raises EngineStoppedError (UNAVAILABLE) where it is not loaded."""
        if self._engine is None:
            raise EngineStoppedError("the base model is not loaded")
        return self._engine

    async def listen(self) -> None:
        """Open the ports of health and metrics. Raises OSError, RuntimeError, TLSError.

        The serving ports come last in `load`: a client that cannot connect goes to another server,
        one whose call is refused fails. That they can be had is checked here.
        """
        self._health.show()
        settings = self.settings
        self._credentials = credentials(settings)
        with named_port("--port", settings.port):
            check_port(settings)
        if self._probes is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probes)
            self._probes.add_insecure_port(address(settings, settings.health_port))
            await self._probes.start()
        with named_port("--http-port", settings.http_port):
            self.http.bind()
        if settings.metrics_port:
            with named_port("--metrics-port", settings.metrics_port):
                self._metrics_server = metrics_port.start(
                    bare_host(settings),
                    settings.metrics_port,
                    self.metrics.shown,
                    self.metrics.pages,
                )

    async def load(self) -> None:
        """Load the base, warm up, load adapters, open the serving port.

        Health turns to SERVING once all that are declared serve. Raises StateFileError, OSError
        or RuntimeError for a port that was taken meanwhile, and what the engine raises.
        """
        log.info("loading base model", base=self.settings.base)
        in_thread = self._threads.starting.run
        engine = await in_thread(lambda: Engine(self.settings.base, self.settings.engine_config()))
        base_name, *_ = ModelNames(self.settings.served_model_names, lambda: engine).given
        engine.add_observer(RequestLog(self.settings.log_requests))
        if self._tracing is not None:
            self._tracing.attach(engine, base_name)
        engine.add_observer(FailureWatch(self._health))
        engine.start()
        await in_thread(engine.warm_up)
        self.metrics.attach(engine, base_name)
        engine.add_observer(self._operations.reports.rates)
        policies = {name: policy.to_engine() for name, policy in self.settings.policies.items()}
        settings_policies = SettingsPolicies(engine, policies)
        engine.add_observer(settings_policies)
        for name, path in self.settings.adapters.items():
            allowed = name in self.settings.allow_unknown_fields
            await in_thread(partial(engine.load_adapter, path, name, allow_unknown_fields=allowed))
        self._engine = engine
        self._declared = self._declare(engine, settings_policies)
        self.metrics.registry.register(DeclaredGauges(self._declared))
        await in_thread(self._declared.restore)
        watch = StepWatch(engine, self._health, self.settings.step_timeout_s)
        self._watching = asyncio.create_task(watch.run())
        await self._open()
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
        self._follow(self._declared)
        self._health.show()

    async def stop(self) -> None:
        """Leave without a failed call: turn NOT_SERVING, serve for `drain_delay_s`, let running
        calls finish for `drain_s`, cancel the rest."""
        settings = self.settings
        # Not the loop's threads: callers' long prompts, or a device that hangs, may have all of them.
        threads = ThreadPoolExecutor(3, "loramux-stop")
        in_thread = partial(asyncio.get_running_loop().run_in_executor, threads)
        self._health.draining()
        if self._declared is not None:
            # Not waited for: a disk that hangs must not keep calls from their ends.
            threads.submit(self._declared.stop_following)
        if self._drain is not None:
            log.info("draining", delay_s=settings.drain_delay_s, seconds=settings.drain_s)
            if self.http.drain is not None:
                self.http.drain.tell()
            await asyncio.sleep(settings.drain_delay_s)
            await asyncio.gather(*(d.finish_calls(settings.drain_s) for d in self._drains()))
        self._threads.close()
        if self._engine is not None:
            await in_thread(self._engine.shutdown, 0, STEP_S)
        await asyncio.gather(*(drain.cut_off() for drain in self._drains()))
        await self.http.stop()
        # The state file follows the engine as long as a call may be answered.
        if self._declared is not None:
            await in_thread(self._declared.stop)
        if self._tracing is not None:
            await in_thread(self._tracing.stop)
        threads.shutdown(wait=False)
        if self._probes is not None:
            await self._probes.stop(grace=0)
        if self._metrics_server is not None:
            self._metrics_server.close()
        if self._watching is not None:
            self._watching.cancel()
        log.info("stopped")

    async def _open(self) -> None:
        """Take calls."""
        info = ServerInfoService(self._operations.reports, self._operations.reads)
        add_services(self._server, self._inference, self._adapters, info, self._health)
        self.port = add_port(self._server, self.settings, self._credentials)
        age_s = self.settings.max_connection_age_s
        self._drain = Drain(self._server, self.port, self._calls, self._running, age_s)
        await self._server.start()
        with named_port("--http-port", self.settings.http_port):
            await self.http.listen()
        log.info(
            "listening",
            address=address(self.settings, self.port),
            http=self.http.url,
            metrics_port=self.settings.metrics_port,
            tls=self._credentials is not None,
            tokens=self.settings.auth_file is not None,
        )

    def _drains(self) -> list[Drain | HttpDrain]:
        """Drains of the ports that are open."""
        return [drain for drain in (self._drain, self.http.drain) if drain is not None]

    def _declare(self, engine: Engine, settings_policies: SettingsPolicies) -> DeclaredAdapters:
        settings = self.settings
        return DeclaredAdapters(
            engine,
            manifest=settings.adapter_manifest,
            directory=settings.adapter_watch,
            state_file=settings.state_file,
            reconcile_s=settings.reconcile_s,
            load_threads=settings.engine_config().adapter_load_threads,
            static_names=settings.adapters.keys(),
            allow_unknown_fields=settings.allow_unknown_fields,
            on_changed=self._readiness.declared_changed,
            to_save=settings_policies.without_own,
        )

    def _follow(self, declared: DeclaredAdapters) -> None:
        """Begin to look at what is declared; ready once nothing is waited for."""
        loop = asyncio.get_running_loop()

        def on_ready() -> None:
            declared.note_ready()
            loop.call_soon_threadsafe(self._health.show)

        self._readiness.base_loaded(declared, on_ready)
        declared.start()

    def _declared_status(self) -> list[DeclaredStatus]:
        return [] if self._declared is None else self._declared.status()

    def _http_parts(self) -> Parts:
        operations = self._operations
        return Parts(
            engine=lambda: self.engine,
            submission=operations.submission,
            changes=operations.changes,
            threads=self._threads,
            readiness=self._readiness,
            metrics=MetricsPage(
                self.metrics.shown, self._threads.reading, self.metrics.router_page
            ),
            reads=operations.reads,
            reports=operations.reports,
            adapter_pages=operations.pages,
            reader=Reader(self.settings.max_message_bytes, self._threads.parsing),
            access=Access(self._tokens, self.metrics.call_refused),
            names=ModelNames(self.settings.served_model_names, lambda: self.engine),
            max_message_bytes=self.settings.max_message_bytes,
            tracing=self._tracing,
        )

    def _request_limits(self) -> RequestLimits:
        return RequestLimits() if self._engine is None else self._engine.request_limits
