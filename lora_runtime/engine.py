"""The engine: one thread owns the device and steps; callers talk to it through handles."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from types import TracebackType
from typing import Self

import torch

from .adapters.store import AdapterStore
from .adapters.version import AdapterVersion
from .base import BaseModel
from .batch import BatchPlanner, StepBatch
from .config import EngineConfig
from .errors import (
    AdapterError,
    EngineFailedError,
    EngineStoppedError,
    LoramuxError,
    QueueFullError,
    RequestCancelledError,
    RequestTimeoutError,
)
from .fairness import OUTPUT_COST, FairQueue
from .handle import RequestHandle
from .kv_cache import BlockAllocator, KVCache
from .limits import Limits
from .model.runner import ModelRunner, make_runner
from .observers import Observers
from .output import accept_token
from .sampling import Sampled, sample
from .scheduler import Scheduler
from .sequence import Sequence
from .submission import RequestBuilder, invalid
from .tracker import LiveRequest
from .types import (
    MAX_ID_LENGTH,
    AdapterInfo,
    AdapterPolicy,
    EngineInfo,
    EngineObserver,
    EngineStats,
    Generation,
    Registration,
    Request,
    SamplingParams,
    StepStats,
    TokenEvent,
)
from .version import __version__

log = logging.getLogger(__name__)
_RETRY_AFTER_S = 1.0
_BLOCKED_POLL_S = 0.05
"""How often deadlines are looked at while every request waits for its adapter."""


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
            weights=config.weights, lora=config.max_adapters > 0, max_added_tokens=config.max_added_tokens)
        num_blocks = _num_kv_blocks(self.base, config)
        self._allocator = BlockAllocator(num_blocks, config.kv_block_size, config.prefix_caching)
        self._store = store = AdapterStore(self.base, config, self)
        self._limits = Limits(store.policy, config.max_running)
        queue = FairQueue(lambda adapter_id: store.policy(adapter_id).weight, config.priority_aging_s)
        self._scheduler = Scheduler(
            self._allocator, store, max_running=config.max_running, max_batch_tokens=config.max_batch_tokens,
            waiting=queue, max_running_of=lambda adapter_id: store.policy(adapter_id).max_running)
        self._planner = BatchPlanner(config.kv_block_size)
        self._runner: ModelRunner = make_runner(self.base, num_blocks, config.kv_block_size)
        limits = [self.base.max_context, num_blocks * config.kv_block_size]
        self.max_context = min([*limits, config.max_context] if config.max_context else limits)
        self._builder = RequestBuilder(self.base, self.max_context, self._cancel)
        self._observers = Observers()
        # Guards everything below; the engine thread waits on it for work.
        self._inbox = threading.Condition()
        self._new: list[LiveRequest] = []
        self._cancelled: set[RequestHandle] = set()
        self._forgotten: list[AdapterVersion] = []
        self._failed_adapters: list[tuple[Seq[AdapterVersion], Exception]] = []
        self._blocked = False  # requests wait and none of them can run
        self._wakes = 0
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
        self._store.close()

    # --- requests -------------------------------------------------------------------------------

    def submit(self, request: Request) -> RequestHandle:
        """Validate, lease the adapters, tokenize and queue. Runs on the caller's thread.

        Waits for the first reading of an adapter that was only registered; `prepare` says when that is done.
        """
        try:
            request.validate()
            self._store.prepare(request.uses).result()
            return self._submit(request)
        except LoramuxError as error:
            self._observers.notify("on_request_rejected", request, error)
            raise

    def prepare(self, request: Request) -> Future[None]:
        """Read what `submit` must know of the request's adapters; done at once unless one was never read here.

        Raises InvalidRequestError, UnknownAdapterError; the future fails with AdapterUnavailableError.
        """
        request.validate()
        return self._store.prepare(request.uses)

    def _submit(self, request: Request) -> RequestHandle:
        self._check_admitting()
        uses = request.uses
        versions = self._store.lease(uses)
        try:
            live = self._builder.build(request, versions)
            self._limits.enter(live.adapter_ids, len(live.sequences), live.sequences[0].num_prompt)
            try:
                self._enqueue(live)
            except BaseException:
                self._limits.leave(live.adapter_ids, len(live.sequences))
                raise
        except BaseException:
            self._store.release(uses, versions)
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

    def load_adapter(
        self, source: str | os.PathLike[str], adapter_id: str | None = None, *, canary_weight: float = 0,
        policy: AdapterPolicy | None = None,
    ) -> AdapterInfo:
        """Read, check and register a PEFT adapter under `adapter_id` (default: the source's last name).

        `source`: a directory, hf://org/name[@revision], or a URL that fsspec knows. An id in use moves to the new
        version and running requests finish on the old one; with a `canary_weight` in (0, 1) the new version takes
        that part of the requests only. Raises AdapterError, BaseMismatchError, AdapterCapacityError,
        AdapterUnavailableError.
        """
        text = os.fspath(source)
        name = text.rstrip("/").rpartition("/")[2] if adapter_id is None else adapter_id
        _check_adapter_id(name)
        _check_share("canary_weight", canary_weight, below=1)
        try:
            return self._store.load(text, name, canary_weight, policy)
        except LoramuxError as error:
            self._observers.notify("on_adapter_failed", name, error)
            raise

    def set_canary(self, adapter_id: str, weight: float) -> AdapterInfo:
        """Change the share of requests that the canary takes: 0 drops it, 1 lets it serve alone.

        Raises UnknownAdapterError, AdapterUnavailableError when there is no canary.
        """
        _check_share("weight", weight)
        return self._store.set_canary(adapter_id, weight)

    def rollback_adapter(self, adapter_id: str, version: str = "") -> AdapterInfo:
        """Let the newest older version, or the named one, serve again.

        Raises UnknownAdapterError, AdapterUnavailableError when there is none or its source is gone.
        """
        return self._store.rollback(adapter_id, version)

    def set_policy(self, adapter_id: str, policy: AdapterPolicy) -> AdapterInfo | None:
        """The adapter's share and limits; "" is the base, "*" all that have none of their own (both give None).

        Raises UnknownAdapterError, AdapterCapacityError when the slots would not hold what is pinned.
        """
        return self._store.set_policy(adapter_id, policy)

    def register(self, registration: Registration) -> None:
        """Know an id as `registrations` gave it, without reading it; does nothing for an id that is known."""
        _check_adapter_id(registration.adapter_id)
        self._store.register(registration)

    def registrations(self) -> list[Registration]:
        """What it takes to serve the same ids after a restart, sorted by id."""
        return self._store.registrations()

    def unload_adapter(self, adapter_id: str, timeout_s: float = 0) -> AdapterInfo:
        """Take the id away and free its versions, waiting up to `timeout_s` seconds for its leases.

        Raises UnknownAdapterError, AdapterInUseError.
        """
        info = self._store.unload(adapter_id, timeout_s)
        self._limits.forget([adapter_id])
        return info

    def get_adapter(self, adapter_id: str) -> AdapterInfo:
        """Raises UnknownAdapterError."""
        return self._store.get(adapter_id)

    def list_adapters(self) -> list[AdapterInfo]:
        """Sorted by id."""
        return self._store.infos()

    # --- reports --------------------------------------------------------------------------------

    def add_observer(self, observer: EngineObserver) -> None:
        self._observers.add(observer)

    def info(self) -> EngineInfo:
        base, config = self.base, self.config
        return EngineInfo(
            base_model=base.name, architecture=type(base.model).__name__, device=str(base.device),
            dtype=str(base.dtype).removeprefix("torch."), kernels=dict(base.kernel_names),
            num_parameters=base.num_parameters, vocab_size=self.base.vocab_size, max_context=self.max_context,
            max_adapters=config.max_adapters, max_running=config.max_running, max_waiting=config.max_waiting,
            max_batch_tokens=config.max_batch_tokens, kv_block_size=config.kv_block_size,
            kv_blocks=self._allocator.num_blocks, version=__version__,
        )

    def stats(self) -> EngineStats:
        allocator = self._allocator
        with self._inbox:
            running, waiting = self._load()
        return EngineStats(
            running=running, waiting=waiting, kv_blocks_used=allocator.num_used,
            kv_blocks_cached=allocator.num_cached, kv_blocks_total=allocator.num_blocks,
            preemptions=self._scheduler.preemptions, steps=self._steps, **self._store.totals(),
        )

    # --- submission, on callers' threads --------------------------------------------------------

    def _check_admitting(self) -> None:
        if self._failure is not None:
            raise EngineFailedError("the engine has failed") from self._failure
        if not self._admitting:
            raise EngineStoppedError("the engine takes no new requests")

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

    # --- the store's reports, on any thread (StoreListener) ---------------------------------------

    def adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        self._wake()
        self._observers.notify("on_adapter_loaded", info, seconds)

    def adapter_failed(self, versions: Seq[AdapterVersion], error: Exception) -> None:
        with self._inbox:
            self._failed_adapters.append((versions, error))
        self._wake()
        self._observers.notify("on_adapter_failed", versions[0].adapter_id, error)

    def adapter_evicted(self, version: AdapterVersion, info: AdapterInfo, reason: str) -> None:
        self._observers.notify("on_adapter_evicted", info, reason)

    def adapter_forgotten(self, version: AdapterVersion) -> None:
        with self._inbox:
            self._forgotten.append(version)
        self._wake()

    def registrations_changed(self) -> None:
        self._observers.notify("on_registrations_changed")

    def _wake(self) -> None:
        with self._inbox:
            self._blocked = False
            self._wakes += 1
            self._inbox.notify_all()

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
            while not self._has_work():
                # Blocked requests still have deadlines; without any there is nothing to look at.
                self._inbox.wait(_BLOCKED_POLL_S if self._live else None)
                if self._live:
                    break
            if self._stopping:
                return False
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, set()
            forgotten, self._forgotten = self._forgotten, []
            failed, self._failed_adapters = self._failed_adapters, []
            for live in new:
                self._live[live.handle] = live
        for version in forgotten:
            self._allocator.forget(version.version)
            self._scheduler.waiting.forget(version.adapter_id)
        for live in new:
            for seq in live.sequences:
                self._scheduler.add(seq)
        now = time.monotonic()
        for handle in cancelled:
            if handle in self._live:
                self._end(self._live[handle], RequestCancelledError("the request was cancelled"), "cancelled")
        for live in [v for v in self._live.values() if v.deadline is not None and v.deadline <= now]:
            self._end(live, RequestTimeoutError("the request's deadline has passed"), "timeout")
        for versions, error in failed:
            for live in [v for v in self._live.values() if v.waits and not set(versions).difference(v.versions)]:
                self._end(live, error, "error")
        return True

    def _has_work(self) -> bool:
        return bool(self._stopping or self._new or self._cancelled or self._forgotten or self._failed_adapters
                    or (self._live and not self._blocked))

    def _step(self) -> None:
        started, wakes = time.monotonic(), self._wakes
        rows = self._scheduler.schedule()
        if not rows:
            with self._inbox:  # until an adapter comes in, a request, or a deadline
                self._blocked = self._wakes == wakes
            return
        batch = self._planner.plan(rows)
        output = self._runner.forward(batch)
        for row in rows:
            row.sequence.num_computed += row.count
            self._scheduler.publish_blocks(row.sequence)
        if batch.sampling:
            with torch.inference_mode():
                results = sample(output, batch.sampling, self.base.sample_rows)
            for seq in batch.sampling:
                self._scheduler.waiting.charge(seq.tenant, OUTPUT_COST)
            self._limits.charge([use for seq in batch.sampling for use in self._live[seq.handle].adapter_ids])
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
            event = accept_token(seq, sampled)
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
        self._limits.leave(self._live[seq.handle].adapter_ids, 1)
        with self._inbox:
            self._unfinished -= 1

    def _close(self, live: LiveRequest, outcome: str) -> None:
        """Everything is freed before the caller hears of the end."""
        if live.versions:
            self._store.release(live.handle.request.uses, live.versions)
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


def _check_adapter_id(name: str) -> None:
    if not 1 <= len(name) <= MAX_ID_LENGTH or not name.isprintable() or name == "*":
        raise AdapterError(f"adapter id {name[:64]!r} must have 1 to {MAX_ID_LENGTH} printable characters, not be *")


def _check_share(field: str, value: float, below: float = float("inf")) -> None:
    if not 0 <= value <= 1 or value >= below:
        raise invalid(field, "must be in [0, 1)" if below == 1 else "must be in [0, 1]")


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
