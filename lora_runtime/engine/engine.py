"""The engine: one thread owns the device and steps; callers talk to it through handles."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from ..adapters.peft.tokenizer.reading import get_ready
from ..adapters.sources.sources import is_remote
from ..adapters.store.store import AdapterStore
from ..api.adapters import AdapterInfo, AdapterPolicy, Registration
from ..api.answers import Generation, TokenEvent
from ..api.limits import RequestLimits
from ..api.reports import (
    EngineInfo,
    EngineObserver,
    EngineStats,
    Occupancy,
    ResidentAdapter,
    RunningStep,
)
from ..api.requests import MAX_ID_LENGTH, Request, SamplingParams
from ..base_model import BaseModel
from ..config import BaseConfig, EngineConfig
from ..errors import (
    AdapterError,
    AdapterExistsError,
    AdapterMissingError,
    EngineStoppedError,
    InvalidRequestError,
    LoramuxError,
    UnknownAdapterError,
)
from ..foreign.process import WORKERS
from ..grammars.masks import MaskThreads
from ..requests.handle import EventStream, RequestHandle
from ..requests.prompts.lengths import TextLimit, longest_token
from ..requests.prompts.prompt_tokens import PromptTokens
from ..scheduling.block_allocator import BlockAllocator
from ..scheduling.fairness import FairQueue
from ..scheduling.limits import Limits
from ..scheduling.scheduler import Scheduler
from ..version import __version__
from .inbox import Inbox
from .intake import Intake
from .language import Language
from .loop import EngineLoop
from .memory import kv_block_bytes, plan_memory
from .observers import Observers
from .store_reports import StoreReports
from .submit import RequestBuilder

log = logging.getLogger(__name__)
_OF_THE_BASE = [
    f
    for f in fields(BaseConfig)
    if f.name not in ("device", "dtype", "trust_hub", "max_added_tokens")
]
"""Settings that are refused beside a base which is loaded: it has its own."""


class Engine:
    """Engine that serves one frozen base with many adapters. All public methods are thread-safe.

    See docs/guide/engine-api.md for what each call gives and raises.
    """

    def __init__(
        self, base: str | os.PathLike[str] | BaseModel, config: EngineConfig | None = None
    ) -> None:
        self.config = config = config or EngineConfig()
        if isinstance(base, BaseModel) and any(
            getattr(config, f.name) != f.default for f in _OF_THE_BASE
        ):
            *names, last = (f.name for f in _OF_THE_BASE)
            raise ValueError(
                f"{', '.join(names)} and {last} are the base's: give them to BaseModel.load"
            )
        if config.threads:
            torch.set_num_threads(config.threads)
        self._parts = ExitStack()
        """Parts that end with this engine: its own base, if any, behind what works with it."""
        if not isinstance(base, BaseModel):
            base = BaseModel.load(base, config, lora=config.max_adapters > 0)
            self._parts.callback(base.close)
        self.base = base
        self._parts.callback(WORKERS.use().close)
        try:
            self._set_up(config)
        except BaseException:
            self._parts.close()
            raise

    def _set_up(self, config: EngineConfig) -> None:
        self.base.open_slots(config.max_adapters)
        self._memory = plan_memory(
            self.base,
            config,
            lambda blocks: self.base.make_runner(
                blocks,
                config.kv_block_size,
                max_running=config.max_running,
                max_context=config.max_context or self.base.max_context,
                cuda_graphs=False,
            ),
            graphs=config.cuda_graphs and self.base.captures(),
        )
        num_blocks = self._memory.kv_cache // kv_block_bytes(self.base, config)
        limits = [self.base.max_context, num_blocks * config.kv_block_size]
        self.max_context = min([*limits, config.max_context] if config.max_context else limits)
        is_base_s = self.max_context == self.base.max_context
        note = self.base.frozen.context_note if is_base_s else ""
        self.request_limits = RequestLimits(
            messages=config.max_messages,
            adapters=config.max_composed_adapters,
            stop_token_ids=config.max_stop_token_ids,
            structured=config.max_structured_bytes,
            token_ids=self.max_context - 1,
            context_note=note,
        )
        self._observers = Observers()
        self._inbox = Inbox(config.max_running, config.max_waiting)
        self._store = store = AdapterStore(
            self.base,
            replace(config, adapter_device_bytes=self._memory.adapters),
            StoreReports(self._inbox, self._observers),
        )
        self._limits = Limits(store.policy, config.max_running, config.max_waiting)
        if config.max_adapters:
            get_ready(self.base.tokenizer)
        text_limit = TextLimit(self.max_context, longest_token(self.base.tokenizer), note)
        self._language = language = Language(self.base, config, text_limit)
        self._parts.callback(language.close)
        self._masks = MaskThreads(
            lambda: self._inbox.post(lambda mail: setattr(mail, "mask_arrived", True))
        )
        self._intake = Intake(
            RequestBuilder(self.base, self.max_context, language, self._cancel),
            store,
            self._limits,
            self._inbox,
            self._observers,
            self.request_limits,
            language.chats,
        )
        self._scheduler = Scheduler(
            BlockAllocator(num_blocks, config.kv_block_size, config.prefix_caching),
            store.slots,
            max_running=config.max_running,
            max_batch_tokens=config.max_batch_tokens,
            waiting=FairQueue(
                lambda adapter_id: store.policy(adapter_id).weight, config.priority_aging_s
            ),
            max_running_of=lambda adapter_id: store.policy(adapter_id).max_running,
            attention_span=self.base.attention_span,
        )
        self._runner = self.base.make_runner(
            num_blocks,
            config.kv_block_size,
            max_running=config.max_running,
            max_context=self.max_context,
            cuda_graphs=config.cuda_graphs,
            lora_overlap=config.lora_overlap,
        )
        self._loop = EngineLoop(
            self.base,
            self._inbox,
            self._scheduler,
            self._runner,
            store,
            self._limits,
            self._observers,
            self._masks,
        )
        self._thread: threading.Thread | None = None
        self.base.on_failure(
            lambda error: self._inbox.post(lambda mail: setattr(mail, "fatal", error))
        )

    # --- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.shutdown()

    def start(self) -> None:
        """Start the engine thread and admit requests. An engine starts once."""
        if self._thread is not None:
            raise RuntimeError("the engine was started before")
        self._inbox.open()
        self._thread = threading.Thread(target=self._loop.run, name="loramux-engine", daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """Run one short request through the whole path."""
        eos = SamplingParams(max_new_tokens=2, ignore_eos=True)
        self.generate(Request(token_ids=(1,), sampling=eos, request_id="warm-up"))

    @property
    def healthy(self) -> bool:
        """True while the engine is started, not failed and not stopped."""
        return self.failure is None and self._thread is not None and self._thread.is_alive()

    @property
    def failure(self) -> BaseException | None:
        """Error that killed the engine thread, if one has."""
        return self._inbox.failure

    def stop_admitting(self) -> None:
        """Stop admitting: from now on `submit` raises EngineStoppedError; what runs goes on."""
        self._inbox.close()
        self._language.stop_admitting()

    def shutdown(self, drain_s: float = 0, join_s: float | None = None) -> bool:
        """Stop admitting, let requests finish for `drain_s` seconds, cancel the rest, join.

        A step that does not end within `join_s` seconds then (None: there is no limit) is left
        behind: its requests get EngineStoppedError. False if it runs even when all else is closed.
        Idempotent.
        """
        self.stop_admitting()
        if self._thread is not None:
            self._inbox.stop(drain_s)
        joined = self._joined(join_s)
        self._masks.close()
        if joined:
            self._store.close()
            self._parts.close()
            return True
        log.error("the engine thread does not end, it is left behind: %s", self.running_step())
        self._loop.abandon(EngineStoppedError("the engine was shut down while a step hung"))
        # Not the slots: the step has their weights, and may have their lock.
        self._store.stop_loading()
        self._parts.close()
        return self._joined(1)  # a step that waited for another process ends with that

    def _joined(self, timeout_s: float | None) -> bool:
        """Wait for the engine thread; True once it has ended, or is the caller's own."""
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- requests -------------------------------------------------------------------------------

    def submit(self, request: Request) -> RequestHandle:
        """Validate, lease the adapters, tokenize and queue. Runs on the caller's thread.

        Waits for the first reading of an adapter that was only registered; `prepare` says when that
        is done.
        """
        return self._intake.submit(request)

    def submit_at_once(self, request: Request) -> RequestHandle | None:
        """Submit a request whose way into the queue is short enough for an event loop: a prompt of a
        line, an adapter that was read before. None for any other, of which nothing is begun, and
        where another thread has the adapters' lock.

        It starts when the running loop goes on: await the handle, since `result` there may wait for
        ever. One whose loop ended first starts with the next request. Raises as `submit`, and
        RuntimeError without a running loop.
        """
        return self._intake.submit_at_once(request)

    def prepare(self, request: Request) -> Future[None]:
        """Read what `submit` must know of the request's adapters; done at once unless one was never
        read here.

        Raises InvalidRequestError, UnknownAdapterError; the future fails with
        AdapterUnavailableError. Either is the request's rejection: observers hear of it, and
        `submit` need not be called.
        """
        return self._intake.prepare(request)

    def tokenize(self, request: Request, *, add_special_tokens: bool = True) -> PromptTokens:
        """Tokenize its prompt as `submit` does; a `prompt` without the special tokens that the
        tokenizer adds unless `add_special_tokens`. Raises as `submit`."""
        return self._intake.tokenize(request, add_special_tokens)

    def generate(self, request: Request) -> Generation:
        """Submit and wait for all choices."""
        handle = self.submit(request)
        try:
            return handle.result()
        except BaseException:  # KeyboardInterrupt too: nobody will read the rest
            handle.cancel()
            raise

    async def agenerate(self, request: Request) -> Generation:
        """Generate as `generate`, for asyncio; cancelling the coroutine cancels the request."""
        return await self.submit(request).aresult()

    def stream(self, request: Request) -> Iterator[TokenEvent]:
        """Submit now; iterate for the events. Closing the iterator cancels the request."""
        return EventStream(self.submit(request))

    # --- adapters -------------------------------------------------------------------------------

    def load_adapter(
        self,
        source: str | os.PathLike[str],
        adapter_id: str | None = None,
        *,
        canary_weight: float = 0,
        policy: AdapterPolicy | None = None,
        roots: Sequence[Path] = (),
        pin_share: float = 1.0,
        allow_unknown_fields: bool = False,
        replace: bool = True,
    ) -> AdapterInfo:
        """Read, check and register a PEFT adapter under `adapter_id` (default: the source's last
        name).

        `source`: a directory, hf://org/name[@revision], or a URL that fsspec knows. An id in use
        moves to the new version and running requests finish on the old one; with a `canary_weight`
        in (0, 1) the new version takes that part of the requests only. With `roots`, files that
        lead out of these directories by links are refused. A pinned one is refused where more than
        `pin_share` of the slots would be pinned then. With `allow_unknown_fields`, fields of
        adapter_config.json that are not known are passed over, with a note; else they are refused.
        Without `replace` an id in use stays as it is, whoever else loads it meanwhile, and nothing
        is told to observers where there is no adapter. Raises AdapterError, AdapterMissingError,
        BaseMismatchError, AdapterExistsError, AdapterCapacityError, AdapterUnavailableError.
        """
        text = os.fspath(source)
        if not is_remote(text):
            text = os.path.abspath(text)  # it is read again after evictions and restarts
        name = text.rstrip("/").rpartition("/")[2] if adapter_id is None else adapter_id
        _check_adapter_id(name)
        _check_share("canary_weight", canary_weight, below=1)
        try:
            return self._store.load(
                text, name, canary_weight, policy, roots, pin_share, allow_unknown_fields, replace
            )
        except AdapterExistsError:
            raise
        except LoramuxError as error:
            if replace or not isinstance(error, AdapterMissingError):
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

        Raises UnknownAdapterError, AdapterUnavailableError when there is none or its source is
        gone.
        """
        return self._store.rollback(adapter_id, version)

    def set_policy(
        self, adapter_id: str, policy: AdapterPolicy, *, pin_share: float = 1.0
    ) -> AdapterInfo | None:
        """Set the adapter's share and limits; "" is the base, "*" all that have none of their own
        (both give None).

        Raises UnknownAdapterError, AdapterCapacityError when the slots would not hold what is
        pinned, or more than `pin_share` of them would be.
        """
        return self._store.set_policy(adapter_id, policy, pin_share)

    def policy(self, adapter_id: str) -> AdapterPolicy:
        """The policy that applies to an adapter; "" is the base, "*" all that have none of their
        own, as ids do that are not registered."""
        return self._store.policy(adapter_id)

    def register(self, registration: Registration) -> None:
        """Register an id as `registrations` gave it, without reading it; does nothing for an id
        that is known."""
        _check_adapter_id(registration.adapter_id)
        self._store.register(registration)

    def registrations(self) -> list[Registration]:
        """Registrations: what it takes to serve the same ids after a restart, sorted by id."""
        return self._store.registrations()

    def unload_adapter(self, adapter_id: str, timeout_s: float = 0) -> AdapterInfo:
        """Take the id away and free its versions, waiting up to `timeout_s` seconds for its leases.

        Raises UnknownAdapterError, AdapterInUseError.
        """
        info = self._store.unload(adapter_id, timeout_s)
        self._limits.forget(adapter_id)
        self._inbox.post(lambda mail: mail.unloaded.append(adapter_id))
        return info

    def get_adapter(self, adapter_id: str) -> AdapterInfo:
        """Report on an adapter. Raises UnknownAdapterError."""
        return self._store.get(adapter_id)

    def has_adapter(self, adapter_id: str) -> bool:
        """Tell whether an id is in use; takes no lock, so that an event loop may ask."""
        return self._store.has(adapter_id)

    def adapter_ids(self) -> tuple[str, ...]:
        """Ids of the adapters, sorted; the same object until they change."""
        return self._store.adapter_ids()

    def list_adapters(self) -> list[AdapterInfo]:
        """Reports on the adapters, sorted by id, each as of the moment it is made."""
        reports = []
        for adapter_id in self._store.adapter_ids():
            with suppress(UnknownAdapterError):  # unloaded meanwhile
                reports.append(self._store.get(adapter_id))
        return reports

    # --- reports --------------------------------------------------------------------------------

    def add_observer(self, observer: EngineObserver) -> None:
        self._observers.add(observer)

    def info(self) -> EngineInfo:
        base, config = self.base, self.config
        return EngineInfo(
            base_model=base.name,
            architecture=type(base.model).__name__,
            device=str(base.device),
            dtype=str(base.dtype).removeprefix("torch."),
            kernels=dict(base.kernel_names),
            num_parameters=base.num_parameters,
            vocab_size=base.vocab_size,
            max_context=self.max_context,
            max_adapters=config.max_adapters,
            max_running=config.max_running,
            max_waiting=config.max_waiting,
            max_batch_tokens=config.max_batch_tokens,
            kv_block_size=config.kv_block_size,
            kv_blocks=self._scheduler.allocator.num_blocks,
            version=__version__,
            memory=self._memory,
            notes=self._language.notes,
        )

    def stats(self) -> EngineStats:
        allocator, running = self._scheduler.allocator, len(self._scheduler.running)
        return EngineStats(
            running=running,
            waiting=max(0, self._inbox.unfinished_sequences - running),
            kv_blocks_used=allocator.num_used,
            kv_blocks_cached=allocator.num_cached,
            kv_blocks_total=allocator.num_blocks,
            preemptions=self._scheduler.preemptions,
            steps=self._loop.steps,
            **self._store.totals(),
        )

    def running_adapters(self) -> dict[str, int]:
        """Sequences in the running batch by adapter id, "" for the base; one of several adapters
        counts for each. Takes no lock."""
        running = list(self._scheduler.running)  # in one go: the engine thread changes it
        return Counter(
            adapter_id
            for handle in (seq.handle for seq in running)
            for adapter_id in [use.adapter_id for use in handle.adapters] or [""]
        )

    def occupancy(self) -> Occupancy:
        """Report on how full the engine is; takes no lock, so that it is cheap to ask."""
        allocator, running = self._scheduler.allocator, len(self._scheduler.running)
        return Occupancy(
            running=running,
            waiting=max(0, self._inbox.unfinished_sequences - running),
            kv_blocks_used=allocator.num_used,
            kv_blocks_total=allocator.num_blocks,
            awaited=self._store.awaited(),
        )

    def residents(self) -> tuple[ResidentAdapter, ...]:
        """Adapter versions in slots, then those in host memory alone, then those being read; the
        same object until they change. Takes no lock."""
        return self._store.residents()

    def running_sequences(self) -> dict[str, int]:
        """Sequences that run now, by the version of each adapter in a slot."""
        return self._store.running()

    def running_step(self) -> RunningStep | None:
        """Report on the step that runs now, None between steps.

        Never waits, so that it can be told from any thread that a step hangs.
        """
        return self._loop.turn.report()

    def _cancel(self, handle: RequestHandle) -> None:
        self._inbox.post(lambda mail: mail.cancelled.add(handle))


def _check_adapter_id(name: str) -> None:
    if not 1 <= len(name) <= MAX_ID_LENGTH or not name.isprintable() or name == "*":
        raise AdapterError(
            f"adapter id {name[:64]!r} must have 1 to {MAX_ID_LENGTH} printable characters, not be *"
        )


def _check_share(field: str, value: float, below: float = float("inf")) -> None:
    if not 0 <= value <= 1 or value >= below:
        raise InvalidRequestError.of(
            field, "must be in [0, 1)" if below == 1 else "must be in [0, 1]"
        )
