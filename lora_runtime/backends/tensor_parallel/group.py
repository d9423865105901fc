"""The worker processes behind one base, as rank 0 sees them: started, told, watched, ended."""

from __future__ import annotations

import atexit
import itertools
import logging
import shutil
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch.distributed import distributed_c10d

from ...adapters.device import DeviceAdapter
from ...errors import BaseModelError, EngineFailedError
from ...kernels.updates import ModuleDelta
from ...model.files import BaseFiles
from ...model.frozen import FrozenModel
from ...modules import BaseModule
from ..torch.adapter import TorchAdapter
from .adapter import ShardedAdapter, part_of
from .messages import Forget, Place, Remove, receive, send
from .process import PATIENCE_S, WorkerProcess
from .process_group import Member
from .shard_plan import ShardPlan, check_modules
from .styles import check_reached
from .weights import GatheredTensors, LocalTensors
from .worker import READY, WorkerSpec

log = logging.getLogger(__name__)
_START_S = 300.0


class WorkerGroup:
    """Group of the ranks behind one base; rank 0 is this process.

    Thread-safe; `close` ends what was started.
    """

    def __init__(self, files: BaseFiles, plan: ShardPlan, device: str) -> None:
        """Start the workers and meet them. Raises BaseModelError when that does not come about.

        `files`: those that every rank reads its part of. CPU threads are shared among the ranks.
        """
        if torch.distributed.is_initialized():
            raise BaseModelError(
                "tensor_parallel: this process is in a torch.distributed group already"
            )
        self.plan = plan
        self._directory = Path(tempfile.mkdtemp(prefix="loramux-"))
        self.member = Member(0, plan, device, str(self._directory / "ranks"))
        self._tell_lock, self._ask_lock, self._step_lock, self._close_lock = (
            threading.Lock() for _ in range(4)
        )
        self._outbox: deque[Any] = deque()
        self._numbers = itertools.count()
        self._failed = threading.Event()
        self._failure = ""
        self._on_failure: list[Callable[[EngineFailedError], object]] = []
        self._closed = False
        self._own: LocalTensors | None = None
        self._threads = torch.get_num_threads()
        if device == "cpu":
            torch.set_num_threads(max(1, self._threads // plan.world))
        atexit.register(self.close)
        self._workers: list[WorkerProcess] = []
        try:
            for rank in range(1, plan.world):
                self._workers.append(
                    WorkerProcess(
                        WorkerSpec(
                            Member(rank, plan, device, self.member.store),
                            files,
                            torch.get_num_threads(),
                        )
                    )
                )
            for worker in self._workers:
                self._greet(worker)
            threading.Thread(target=self._watch, name="loramux-ranks", daemon=True).start()
            self.member.join()
        except BaseException as error:
            self.close()
            if isinstance(error, (BaseModelError, KeyboardInterrupt)):
                raise
            raise BaseModelError(
                f"tensor_parallel: the ranks do not come together: {error}"
            ) from error

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return [r.process.pid for r in self._workers if r.process.pid is not None]

    # --- the base ---------------------------------------------------------------------------------

    def tensors(self, frozen: FrozenModel) -> GatheredTensors:
        """The base's weights for staging.

        Raises BaseModelError for modules that are split as none is here.
        """
        check_modules(self.plan, frozen.modules)
        check_reached(frozen.model)
        self._own = LocalTensors(frozen.model, 0, self.plan.world)
        return GatheredTensors(frozen.model, frozen.modules, frozen.dtype, self._own, self._ask)

    def stage(
        self, deltas: Mapping[str, ModuleDelta], modules: Mapping[str, BaseModule]
    ) -> ShardedAdapter:
        """Stage an adapter: each rank's part into its host memory, from where `place` takes it.

        Beside steps.
        """
        number = self.new_number()
        parts = [part_of(deltas, self.plan, modules, rank) for rank in range(self.plan.world)]
        own = TorchAdapter(parts[0])
        with self._asking():
            for worker in self._workers:
                send(worker.staging, ("stage", number, parts[worker.rank]))
            _checked([worker.answer() for worker in self._workers])
        if self.member.device == "cuda":
            own = own.pinned()
        staged = ShardedAdapter(own.deltas, number)
        # Whoever drops the last reference to it: host memory has many ways to lose an adapter.
        weakref.finalize(staged, self.note, Forget(number))
        return staged

    def place(self, adapter: DeviceAdapter) -> None:
        """Place an adapter on the workers' devices, before the steps that come after."""
        assert isinstance(adapter, ShardedAdapter)
        self.note(Place(adapter.number))

    def remove(self, adapter: DeviceAdapter) -> None:
        """Remove an adapter from the workers' devices, after the steps that came before."""
        assert isinstance(adapter, ShardedAdapter)
        self.note(Remove(adapter.number))

    def held(self) -> list[tuple[int, int, int]]:
        """Count per worker: adapters in host memory, adapters on the device, and runners."""
        with self._asking():
            for worker in self._workers:
                send(worker.staging, ("held",))
            return _checked([worker.answer() for worker in self._workers])

    def _ask(self, method: str, *args: Any) -> list[torch.Tensor]:
        """Ask all ranks; gives their answers, this one's first."""
        with self._asking():
            for worker in self._workers:
                send(worker.staging, (method, *args))
            try:
                own = getattr(self._own, method)(*args)
            finally:  # what is asked next gets its own answers
                answers = [worker.answer() for worker in self._workers]
            return [own, *_checked(answers)]

    # --- messages ---------------------------------------------------------------------------------

    def new_number(self) -> int:
        return next(self._numbers)

    def tell(self, message: Any) -> None:
        """Tell all workers, which take messages in the order of calls.

        Raises EngineFailedError if one has ended.
        """
        self._outbox.append(message)
        with self._tell_lock:
            self._empty_outbox()

    def note(self, message: Any) -> None:
        """Tell all workers without raising or waiting for a lock that this very thread may hold:
        finalizers run anywhere.

        A message that is not sent now goes before the next one; and if there is nobody to send it
        to, a step will say so.
        """
        self._outbox.append(message)
        while self._outbox and self._tell_lock.acquire(blocking=False):
            try:
                with suppress(EngineFailedError):
                    self._empty_outbox()
            finally:
                self._tell_lock.release()

    def _empty_outbox(self) -> None:
        while self._outbox:
            message = self._outbox.popleft()
            if self._closed:
                continue
            with self._broken():
                for worker in self._workers:
                    send(worker.steps, message)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Hold one step at a time, message and collectives together.

        Raises EngineFailedError if a worker has ended.
        """
        with self._step_lock, self._broken():
            yield

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._ask_lock, self._broken():
            yield

    @contextmanager
    def _broken(self) -> Iterator[None]:
        """Name the cause of a worker's end, not the broken pipe: it shows first where this process
        waits for it."""
        try:
            if self._failure:
                raise EngineFailedError(self._failure)
            yield
        except (OSError, EOFError, RuntimeError) as error:
            if not self._closed and not self._failed.wait(PATIENCE_S):
                raise
            raise EngineFailedError(self._failure or "the base was closed") from error

    # --- life -------------------------------------------------------------------------------------

    def on_failure(self, call: Callable[[EngineFailedError], object]) -> None:
        """Call `call` once, on a thread of its own, when a worker has ended; now, if one has."""
        self._on_failure.append(call)
        if self._failed.is_set():
            call(EngineFailedError(self._failure))

    def failure_or(self, error: BaseException) -> str:
        """Cause of a worker's end, if one has ended or just does, else the error."""
        return self._failure if self._failed.wait(1) else str(error)

    def close(self) -> None:
        """End the workers and leave the group. Takes few seconds, even if all hang. Idempotent."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        # A step that runs now hangs with one of them: who closes has waited for the others.
        hangs = not self._step_lock.acquire(blocking=False)
        if asked := not hangs and self._tell_lock.acquire(timeout=1):
            for worker in self._workers:
                worker.ask_to_end()
            self._tell_lock.release()
        until = time.monotonic() + (PATIENCE_S if asked else 0)
        for worker in self._workers:
            worker.end_by(until)
        if hangs and self.member.device == "cuda":  # NCCL does not notice
            distributed_c10d._abort_process_group()
        if not hangs or self._step_lock.acquire(timeout=PATIENCE_S):
            self.member.leave()
            self._step_lock.release()
        torch.set_num_threads(self._threads)
        shutil.rmtree(self._directory, ignore_errors=True)
        atexit.unregister(self.close)

    def _greet(self, worker: WorkerProcess) -> None:
        """Wait until the worker's process lives and has its modules, before anything waits in a
        collective, which nobody else would end."""
        ready = wait([worker.steps, worker.process.sentinel], _START_S)
        try:
            said = receive(worker.steps) if ready else f"not within {_START_S:.0f} s"
        except EOFError:
            said = worker.end()
        if said != READY:
            raise BaseModelError(f"tensor_parallel: rank {worker.rank} does not start: {said}")

    def _watch(self) -> None:
        ended = wait([r.process.sentinel for r in self._workers])
        if self._closed:
            return
        worker = next(r for r in self._workers if r.process.sentinel in ended)
        self._failure = f"rank {worker.rank} of {self.plan.world} has ended: {worker.end()}"
        log.error("tensor parallel: %s", self._failure)
        self._failed.set()
        for call in self._on_failure:
            call(EngineFailedError(self._failure))
        # NCCL, unlike gloo, does not notice: a step would wait for its timeout.
        if self.member.device == "cuda":
            distributed_c10d._abort_process_group()


def _checked(answers: list[Any]) -> list[Any]:
    """Raise the first answer that is an exception, once all ranks have answered: what is asked next
    gets its own."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
