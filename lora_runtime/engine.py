"""The engine: one thread owns the device and steps; callers talk to it through handles."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from .adapters import loader
from .adapters.registry import AdapterRegistry, AdapterVersion
from .base import BaseModel
from .batch import BatchPlanner, StepBatch
from .config import EngineConfig
from .detokenize import IncrementalDetokenizer
from .errors import (
    AdapterError,
    EngineFailedError,
    EngineStoppedError,
    LoramuxError,
    QueueFullError,
    RequestCancelledError,
    RequestTimeoutError,
)
from .handle import RequestHandle
from .kv_cache import BlockAllocator, KVCache
from .model.runner import ModelRunner, make_runner
from .observers import Observers
from .output import accept_token
from .sampling import Sampled, sample
from .scheduler import Scheduler
from .sequence import Sequence
from .tokenization import encode
from .tracker import LiveRequest
from .types import (
    MAX_ID_LENGTH,
    AdapterInfo,
    EngineInfo,
    EngineObserver,
    EngineStats,
    Generation,
    Request,
    SamplingParams,
    StepStats,
    TokenEvent,
)
from .version import __version__

log = logging.getLogger(__name__)
_RETRY_AFTER_S = 1.0


class Engine:
    """Serves one frozen base with many adapters. All public methods are thread-safe.

    See docs/engine-api.md for what each call gives and raises.
    """

    def __init__(self, base: str | os.PathLike[str] | BaseModel, config: EngineConfig | None = None) -> None:
        self.config = config = config or EngineConfig()
        if isinstance(base, BaseModel) and (config.kernels, config.weights) != ("auto", "auto"):
            raise ValueError("kernels and weights are the base's: give them to BaseModel.load")
        if config.threads:
            torch.set_num_threads(config.threads)
        self.base = base if isinstance(base, BaseModel) else BaseModel.load(
            base, device=config.device, dtype=config.dtype, trust_hub=config.trust_hub, kernels=config.kernels,
            weights=config.weights, lora=config.max_adapters > 0)
        num_blocks = _num_kv_blocks(self.base, config)
        self._allocator = BlockAllocator(num_blocks, config.kv_block_size, config.prefix_caching)
        self._scheduler = Scheduler(
            self._allocator, max_running=config.max_running, max_batch_tokens=config.max_batch_tokens)
        self._planner = BatchPlanner(config.kv_block_size)
        self._runner: ModelRunner = make_runner(self.base, num_blocks, config.kv_block_size)
        limits = [self.base.max_context, num_blocks * config.kv_block_size]
        self.max_context = min([*limits, config.max_context] if config.max_context else limits)
        self._observers = Observers()
        self._registry = AdapterRegistry(config.max_adapters, self._on_adapter_freed)
        # Guards everything below; the engine thread waits on it for work.
        self._inbox = threading.Condition()
        self._new: list[LiveRequest] = []
        self._cancelled: set[RequestHandle] = set()
        self._forgotten: list[str] = []
        self._unfinished = 0  # sequences that run or wait
        self._admitting = False
        self._stopping = False
        self._failure: BaseException | None = None
        self._live: dict[RequestHandle, LiveRequest] = {}  # engine thread only
        self._steps = 0
        self._thread: threading.Thread | None = None

    # --- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()

    def start(self) -> None:
        """Start the engine thread and admit requests. An engine starts once."""
        if self._thread is not None:
            raise RuntimeError("the engine was started before")
        self._admitting = True
        self._thread = threading.Thread(target=self._run, name="loramux-engine", daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """Run one short request through the whole path."""
        eos = SamplingParams(max_new_tokens=2, ignore_eos=True)
        self.generate(Request(token_ids=(1,), sampling=eos, request_id="warm-up"))

    @property
    def healthy(self) -> bool:
        """Started, not failed, not stopped."""
        return self._failure is None and self._thread is not None and self._thread.is_alive()

    @property
    def failure(self) -> BaseException | None:
        """What killed the engine thread."""
        return self._failure

    def stop_admitting(self) -> None:
        """From now on `submit` raises EngineStoppedError; what runs goes on."""
        with self._inbox:
            self._admitting = False

    def shutdown(self, drain_s: float = 0) -> None:
        """Stop admitting, let requests finish for `drain_s` seconds, cancel the rest, join. Idempotent."""
        self.stop_admitting()
        if self._thread is None:
            return
        with self._inbox:
            self._inbox.wait_for(lambda: not (self._live or self._new) or self._failure, drain_s)
            self._stopping = True
            self._inbox.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    # --- requests -------------------------------------------------------------------------------

    def submit(self, request: Request) -> RequestHandle:
        """Validate, tokenize, lease the adapter and queue. Runs on the caller's thread."""
        try:
            return self._submit(request)
        except LoramuxError as error:
            self._observers.notify("on_request_rejected", request, error)
            raise

    def _submit(self, request: Request) -> RequestHandle:
        self._check_admitting()
        request.validate()
        prompt = encode(request, self.base.tokenizer, self._vocab_size, self.max_context)
        adapter = self._registry.lease(request.adapter_id) if request.adapter_id else None
        try:
            live = self._make_live(request, prompt, adapter)
            self._enqueue(live)
        except BaseException:
            if adapter is not None:
                self._registry.release(adapter)
            raise
        return live.handle

    def generate(self, request: Request) -> Generation:
        """Submit and wait for all choices."""
        handle = self.submit(request)
        try:
            return handle.result()
        except BaseException:  # KeyboardInterrupt too: nobody will read the rest
            handle.cancel()
            raise

    async def agenerate(self, request: Request) -> Generation:
        """`generate` for asyncio; cancelling the coroutine cancels the request."""
        return await self.submit(request).aresult()

    def stream(self, request: Request) -> Iterator[TokenEvent]:
        """Submit now; iterate for the events. Closing the iterator cancels the request."""
        return _closing_iterator(self.submit(request))

    # --- adapters -------------------------------------------------------------------------------

    def load_adapter(self, path: str | os.PathLike[str], adapter_id: str | None = None) -> AdapterInfo:
        """Load a PEFT directory under `adapter_id` (default: its name), off the engine thread.

        Raises AdapterError, BaseMismatchError, AdapterCapacityError.
        """
        source = Path(path)
        name = source.name if adapter_id is None else adapter_id
        if not 1 <= len(name) <= MAX_ID_LENGTH or not name.isprintable():
            raise AdapterError(f"adapter id {name[:64]!r} must have 1 to {MAX_ID_LENGTH} printable characters")
        if not source.is_dir():
            raise AdapterError(f"adapter path {source.name!r} is not a directory")
        started = time.monotonic()
        loaded = loader.load(source, self.base, self.config.max_adapter_bytes)
        info = self._registry.publish(name, source, loaded)
        self._observers.notify("on_adapter_loaded", info, time.monotonic() - started)
        return info

    def unload_adapter(self, adapter_id: str, timeout_s: float = 0) -> AdapterInfo:
        """Free the adapter, waiting up to `timeout_s` for its leases.

        Raises UnknownAdapterError, AdapterInUseError.
        """
        return self._registry.unload(adapter_id, timeout_s)

    def get_adapter(self, adapter_id: str) -> AdapterInfo:
        """Raises UnknownAdapterError."""
        return self._registry.get(adapter_id)

    def list_adapters(self) -> list[AdapterInfo]:
        """Sorted by id."""
        return self._registry.list()

    # --- reports --------------------------------------------------------------------------------

    def add_observer(self, observer: EngineObserver) -> None:
        self._observers.add(observer)

    def info(self) -> EngineInfo:
        base, config = self.base, self.config
        return EngineInfo(
            base_model=base.name, architecture=type(base.model).__name__, device=str(base.device),
            dtype=str(base.dtype).removeprefix("torch."), kernels=dict(base.kernel_names),
            num_parameters=base.num_parameters, vocab_size=self._vocab_size, max_context=self.max_context,
            max_adapters=config.max_adapters, max_running=config.max_running, max_waiting=config.max_waiting,
            max_batch_tokens=config.max_batch_tokens, kv_block_size=config.kv_block_size,
            kv_blocks=self._allocator.num_blocks, version=__version__,
        )

    def stats(self) -> EngineStats:
        adapters, adapter_bytes, leases = self._registry.totals()
        allocator = self._allocator
        with self._inbox:
            running, waiting = self._load()
        return EngineStats(
            running=running, waiting=waiting, kv_blocks_used=allocator.num_used,
            kv_blocks_cached=allocator.num_cached, kv_blocks_total=allocator.num_blocks, adapters=adapters,
            adapter_bytes=adapter_bytes, leases=leases, preemptions=self._scheduler.preemptions, steps=self._steps,
        )

    # --- submission, on callers' threads --------------------------------------------------------

    @property
    def _vocab_size(self) -> int:
        return self.base.vocab_size

    def _check_admitting(self) -> None:
        if self._failure is not None:
            raise EngineFailedError("the engine has failed") from self._failure
        if not self._admitting:
            raise EngineStoppedError("the engine takes no new requests")

    def _make_live(self, request: Request, prompt: tuple[int, ...], adapter: AdapterVersion | None) -> LiveRequest:
        handle = RequestHandle(
            request, request.request_id or uuid.uuid4().hex, prompt, adapter.version if adapter else "", self._cancel)
        params = request.sampling
        max_tokens = min(params.max_new_tokens, self.max_context - len(prompt))
        tokenizer = self.base.tokenizer
        sequences = [
            Sequence(handle, i, prompt, params, adapter, IncrementalDetokenizer(tokenizer, prompt), max_tokens)
            for i in range(params.n)
        ]
        return LiveRequest(handle, adapter, sequences)

    def _enqueue(self, live: LiveRequest) -> None:
        with self._inbox:
            self._check_admitting()
            if self._unfinished + len(live.sequences) > self.config.max_running + self.config.max_waiting:
                raise QueueFullError(self.config.max_waiting, _RETRY_AFTER_S)
            self._unfinished += len(live.sequences)
            self._new.append(live)
            self._inbox.notify_all()

    def _load(self) -> tuple[int, int]:
        """(running, waiting) sequences."""
        running = len(self._scheduler.running)
        return running, max(0, self._unfinished - running)

    def _cancel(self, handle: RequestHandle) -> None:
        with self._inbox:
            self._cancelled.add(handle)
            self._inbox.notify_all()

    def _on_adapter_freed(self, version: AdapterVersion, reason: str) -> None:
        with self._inbox:
            self._forgotten.append(version.version)
            self._inbox.notify_all()
        self._observers.notify("on_adapter_evicted", version.info(), reason)

    # --- the engine thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._collect_work():
                self._step()
            self._end_all(EngineStoppedError("the engine was shut down"), "cancelled")
        except BaseException as error:
            log.exception("the engine thread failed")
            self._fail(error)

    def _collect_work(self) -> bool:
        """Wait for work and take it in; False when the engine is to stop."""
        with self._inbox:
            self._inbox.wait_for(
                lambda: self._stopping or self._new or self._cancelled or self._live or self._forgotten)
            if self._stopping:
                return False
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, set()
            forgotten, self._forgotten = self._forgotten, []
            for live in new:
                self._live[live.handle] = live
        for version in forgotten:
            self._allocator.forget(version)
        for live in new:
            for seq in live.sequences:
                self._scheduler.add(seq)
        now = time.monotonic()
        for handle in cancelled:
            if handle in self._live:
                self._end(self._live[handle], RequestCancelledError("the request was cancelled"), "cancelled")
        for live in [v for v in self._live.values() if v.deadline is not None and v.deadline <= now]:
            self._end(live, RequestTimeoutError("the request's deadline has passed"), "timeout")
        return True

    def _step(self) -> None:
        started = time.monotonic()
        rows = self._scheduler.schedule()
        if not rows:
            if self._live:
                raise RuntimeError("requests are waiting but the scheduler can run none of them")
            return
        batch = self._planner.plan(rows)
        output = self._runner.forward(batch)
        for row in rows:
            row.sequence.num_computed += row.count
            self._scheduler.publish_blocks(row.sequence)
        if batch.sampling:
            with torch.inference_mode():
                results = sample(output, batch.sampling, self.base.sample_rows)
            for seq, sampled in zip(batch.sampling, results, strict=True):
                self._deliver(seq, sampled)
        self._steps += 1
        self._report_step(batch, len(rows), time.monotonic() - started)

    def _deliver(self, seq: Sequence, sampled: Sampled) -> None:
        live = self._live.get(seq.handle)
        if live is None:  # a sibling choice failed earlier in this very step
            return
        if sampled.error is not None:
            self._end(live, EngineFailedError(sampled.error), "error")
            return
        try:
            event = accept_token(seq, sampled, self.base.eos_token_ids)
        except Exception as error:
            # One request's text must not take the others down.
            log.exception("request %s failed while its output was decoded", seq.handle.request_id)
            self._end(live, EngineFailedError(f"output cannot be decoded: {error}"), "error")
            return
        if event.finish_reason is not None:
            self._finish(seq)
            if all(s.finished for s in live.sequences):
                self._close(live, "ok")
        seq.handle.push(event)

    def _end(self, live: LiveRequest, error: Exception, outcome: str) -> None:
        """Take an unfinished request out and tell its caller why."""
        for seq in live.sequences:
            if not seq.finished:
                self._finish(seq)
        self._close(live, outcome)
        live.handle.fail(error)

    def _finish(self, seq: Sequence) -> None:
        seq.finished = True
        self._scheduler.finish(seq)
        with self._inbox:
            self._unfinished -= 1

    def _close(self, live: LiveRequest, outcome: str) -> None:
        """Everything is freed before the caller hears of the end."""
        if live.adapter is not None:
            self._registry.release(live.adapter)
        with self._inbox:
            self._live.pop(live.handle, None)
            self._inbox.notify_all()
        self._observers.notify("on_request_finished", live.record(outcome))

    def _end_all(self, error: LoramuxError, outcome: str) -> None:
        with self._inbox:
            self._admitting = False
            for new in self._new:
                self._live[new.handle] = new
            self._new = []
        for live in list(self._live.values()):
            self._end(live, error, outcome)

    def _fail(self, error: BaseException) -> None:
        with self._inbox:
            self._failure = error
            self._inbox.notify_all()
        self._observers.notify("on_engine_failed", error)
        self._end_all(EngineFailedError("the engine has failed"), "error")

    def _report_step(self, batch: StepBatch, sequences: int, seconds: float) -> None:
        with self._inbox:
            running, waiting = self._load()
        stats = StepStats(
            duration_s=seconds, tokens=len(batch.tokens), sequences=sequences,
            distinct_adapters=batch.distinct_adapters, running=running, waiting=waiting,
            kv_blocks_used=self._allocator.num_used, kv_blocks_total=self._allocator.num_blocks,
        )
        self._observers.notify("on_step", stats)


def _closing_iterator(handle: RequestHandle) -> Iterator[TokenEvent]:
    try:
        yield from handle
    finally:
        handle.cancel()


def _num_kv_blocks(base: BaseModel, config: EngineConfig) -> int:
    size = config.kv_cache_bytes
    if size == 0:
        size = 1 << 30
        if base.device.type == "cuda":
            size = int(torch.cuda.mem_get_info(base.device)[0] * 0.8)
    per_block = KVCache.bytes_per_token(base.kv_shapes, base.dtype) * config.kv_block_size
    blocks = size // per_block
    if blocks < 1:
        raise ValueError(f"kv_cache_bytes {size} does not hold one block of {per_block} bytes")
    return blocks
