"""Metrics of what happens: steps, requests, adapters, calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import grpc
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, Summary

from lora_runtime import (
    AdapterInfo,
    Engine,
    EngineObserver,
    Request,
    RequestRecord,
    StepStats,
)

from ..digest import AdaptersDigest
from ..gauges import EngineGauges, LogLines
from ..grpc.calls import CallInterceptor
from ..metrics_port import PLACEMENT_PATH, ROUTER_PATH, Pages
from ..signals.boards import LOAD_SECONDS, BoardNames, plain, renamed
from ..signals.page import RouterPage
from ..signals.router import RouterSignals
from ..signals.work import AdapterWork
from .families import Families
from .labels import AdapterLabels, finish_reason

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEPS = (*_LATENCY, 120, 300)
"""Up to what `step_timeout_s` may be: that is chosen by them."""
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_LENGTHS = (*_SIZES, 8192, 16384, 32768, 65536, 131072)


class Metrics(EngineObserver):
    """One registry per server, fed by calls (as a CallObserver) too.

    At most `max_adapter_labels` adapters get a label of their own. `names`: whose names are shown,
    loramux's, vllm's or both.
    """

    def __init__(self, max_adapter_labels: int, names: Sequence[str] = ("loramux", "vllm")) -> None:
        self.registry = CollectorRegistry()
        self.shown = self.registry if "loramux" in names else CollectorRegistry()
        """What is on the page."""
        self._has_vllm_names = "vllm" in names
        self._router: RouterPage | None = None
        self.work: AdapterWork | None = None
        self._families = made = Families(self.registry)
        self._labels = AdapterLabels(max_adapter_labels)
        self._requests = made.counter("requests", "Requests that ended.", "adapter", "outcome")
        self._rejected = made.counter(
            "requests_rejected", "Requests refused before they were queued.", "reason"
        )
        self._prompt = made.counter("prompt_tokens", "Prompt tokens.", "adapter")
        self._cached = made.counter(
            "prefix_cache_hit_tokens", "Prompt tokens found in the prefix cache.", "adapter"
        )
        self._completion = made.counter("completion_tokens", "Generated tokens.", "adapter")
        self._ttft = made.histogram(
            "time_to_first_token_seconds", "Arrival to first token.", _LATENCY
        )
        self._adapter_ttft = Summary(
            "loramux_adapter_time_to_first_token_seconds",
            "Arrival to first token.",
            ["adapter"],
            registry=self.registry,
        )
        self._itl = made.histogram(
            "inter_token_latency_seconds", "Between tokens of a sequence.", _LATENCY
        )
        self._queue = made.histogram("queue_seconds", "Arrival to first step.", _LATENCY)
        self._adapter_wait = made.histogram(
            "adapter_wait_seconds",
            "The part of the queue's time that a request's adapter was being loaded; 0 for those that "
            "did not wait for it.",
            (0, *_LATENCY),
        )
        self._e2e = made.histogram("request_seconds", "Arrival to end.", _LATENCY)
        self._prefill = made.histogram("prefill_seconds", "First step to first token.", _LATENCY)
        self._decode = made.histogram("decode_seconds", "First to last token.", _LATENCY)
        self._token_time = made.histogram(
            "time_per_output_token_seconds",
            "Between tokens, the mean of each request's first choice.",
            _LATENCY,
        )
        self._prompt_length = made.histogram(
            "request_prompt_tokens", "Prompt tokens of a request.", _LENGTHS
        )
        self._answer_length = made.histogram(
            "request_completion_tokens", "Generated tokens of a request.", _LENGTHS
        )
        self._longest = made.histogram(
            "request_longest_choice_tokens", "Generated tokens of its longest choice.", _LENGTHS
        )
        self._finished = made.counter(
            "finished_requests", "Requests that ended, by what ended them.", "reason"
        )
        self._step = made.histogram("step_seconds", "One engine step.", _STEPS)
        self._generated = made.counter("generated_tokens", "Tokens sampled, as steps end.")
        self._prefilled = made.counter(
            "prefill_tokens",
            "Tokens that steps computed in rows of more than one, as they end: of prompts, or again "
            "after a preemption.",
        )
        self._tokens = made.histogram("step_tokens", "Tokens in a step.", _SIZES)
        self._sequences = made.histogram("step_sequences", "Sequences in a step.", _SIZES)
        self._distinct = made.histogram(
            "step_distinct_adapters", "Distinct adapters in a step.", (0, *_SIZES)
        )
        self._loads = made.counter("adapter_loads", "Adapter versions loaded.")
        self._load_time = made.histogram(
            "adapter_load_seconds", "Reading, checking and copying an adapter version.", _LATENCY
        )
        self._load_failures = made.counter(
            "adapter_load_failures", "Adapters that could not be loaded."
        )
        self._evictions = made.counter(
            "adapter_evictions", "Adapter versions that left their slot.", "reason"
        )
        self._refused = made.counter(
            "calls_refused", "Calls without a valid token, or outside its scope.", "reason"
        )
        self._calls = made.counter("rpcs", "Calls that ended, of every service.", "method", "code")
        self._http = made.counter("http_requests", "Calls over HTTP that ended.", "route", "status")
        self._failed = Gauge(
            "loramux_engine_failed", "1 once the engine has failed.", registry=self.registry
        )
        self.registry.register(LogLines())
        ProcessCollector(registry=self.registry)

    def follow(self, calls: CallInterceptor) -> None:
        """Read the number of open calls at every scrape."""
        calls_open = Gauge("loramux_open_calls", "Calls that run now.", registry=self.registry)
        calls_open.set_function(lambda: calls.open)

    def attach(self, engine: Engine, model_name: str) -> None:
        """Take events from `engine` and read its gauges at every scrape. `model_name`: the base's,
        on what has vLLM's names."""
        engine.add_observer(self)
        self.registry.register(EngineGauges(engine, self._labels.has_own))
        digest = AdaptersDigest(engine)
        engine.add_observer(digest)
        self.registry.register(digest)
        prefix = "vllm:" if self._has_vllm_names else "loramux_"
        signals = RouterSignals(engine, model_name, prefix)
        self.shown.register(signals)
        if self._has_vllm_names:
            self.shown.register(BoardNames(self._families.by_name, engine, model_name))
            loads = partial(renamed, self._families.by_name, LOAD_SECONDS, model_name)
        else:
            loads = partial(plain, self._families.by_name, LOAD_SECONDS)
        self._router = RouterPage(signals, loads)
        self.work = AdapterWork(engine)
        engine.add_observer(self.work)

    @property
    def pages(self) -> Pages:
        """Pages of the metrics port beside that of all metrics."""
        return {ROUTER_PATH: self.router_page, PLACEMENT_PATH: self.placement_page}

    def placement_page(self) -> bytes:
        """Make the page for placement, empty as long as no base is loaded."""
        return b"" if self.work is None else self.work.page(self.router_page)

    def router_page(self) -> bytes:
        """Make the page for routers, empty as long as no base is loaded."""
        return b"" if self._router is None else self._router.text()

    def on_step(self, stats: StepStats) -> None:
        self._step.observe(stats.duration_s)
        self._generated.inc(stats.generated)
        self._prefilled.inc(stats.prefill_tokens)
        self._tokens.observe(stats.tokens)
        self._sequences.observe(stats.sequences)
        self._distinct.observe(stats.distinct_adapters)
        for _, gap in stats.token_gaps:
            self._itl.observe(gap)

    def on_request_finished(self, record: RequestRecord) -> None:
        adapter = self._labels.of(record)
        self._requests.labels(adapter, record.outcome).inc()
        self._prompt.labels(adapter).inc(record.prompt_tokens)
        self._cached.labels(adapter).inc(record.cached_tokens)
        self._completion.labels(adapter).inc(record.completion_tokens)
        self._queue.observe(record.queue_s)
        if record.adapters:
            self._adapter_wait.observe(record.adapter_wait_s)
        self._e2e.observe(record.e2e_s)
        self._prompt_length.observe(record.prompt_tokens)
        self._answer_length.observe(record.completion_tokens)
        self._longest.observe(max(record.choice_tokens))
        self._finished.labels(finish_reason(record)).inc()
        if record.ttft_s is not None:
            self._ttft.observe(record.ttft_s)
            self._adapter_ttft.labels(adapter).observe(record.ttft_s)
            self._prefill.observe(record.ttft_s - record.queue_s)
            self._decode.observe(record.decode_s)
        if (gaps := record.choice_tokens[0] - 1) > 0:
            self._token_time.observe(record.decode_s / gaps)

    def on_request_rejected(self, request: Request, error: Exception) -> None:
        self._rejected.labels(type(error).__name__.removesuffix("Error")).inc()

    def on_adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        self._loads.inc()
        self._load_time.observe(seconds)

    def on_adapter_evicted(self, info: AdapterInfo, reason: str) -> None:
        self._evictions.labels(reason).inc()

    def on_adapter_failed(self, adapter_id: str, error: Exception) -> None:
        self._load_failures.inc()

    def call_refused(self, reason: str) -> None:
        """Count a refused call. `reason`: unauthenticated or permission_denied."""
        self._refused.labels(reason).inc()

    def begun(self, method: str, peer: str) -> None:
        """A call has begun."""

    def ended(self, method: str, peer: str, code: grpc.StatusCode) -> None:
        """A call has ended."""
        self._calls.labels(method, code.name).inc()

    def http_ended(self, route: str, status: int) -> None:
        """Count a call over HTTP, or a connection's bytes that were none."""
        self._http.labels(route, str(status)).inc()

    def follow_http(self, calls: Callable[[], int], connections: Callable[[], int]) -> None:
        """Read the numbers of what is open over HTTP at every scrape."""
        for name, text, count in (
            ("requests", "Calls over HTTP that run now.", calls),
            ("connections", "Connections to the HTTP port.", connections),
        ):
            gauge = Gauge(f"loramux_open_http_{name}", text, registry=self.registry)
            gauge.set_function(count)

    def on_engine_failed(self, error: BaseException) -> None:
        self._failed.set(1)
