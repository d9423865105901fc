"""Queue of work on what strangers wrote, such as chats to be rendered by templates of adapters: nobody
takes another's turn."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..errors import EngineStoppedError
from .process import WORKERS, Worker, WorkError, WorkLimits, WorkTimeoutError
from .templates import RENDER

MAX_WAITING = 64
"""Chats that may wait for one adapter's template."""
_THREADS = 2
_IDLE_WORKERS = 8
_QUICK_S = 0.25
"""Seconds of computing for a chat where others wait behind it; one that takes longer begins again
among the slow."""
_SLOW_S = 600.0
_MAX_SLOW = 4096


@dataclass(frozen=True)
class Chat:
    """Conversation to be rendered, by whose template."""

    template: str
    messages: list[dict[str, Any]]
    variables: dict[str, Any]
    """The caller's values: JSON."""
    max_chars: int
    """Longest text that is wanted."""
    continues: bool = False
    """Whether the last message is begun, and no turn opened behind it."""
    special: dict[str, Any] = field(default_factory=dict)
    """Special tokens by transformers' names for them."""
    work: str = RENDER

    @property
    def arguments(self) -> tuple[Any, ...]:
        return (
            self.template,
            self.messages,
            self.variables,
            self.max_chars,
            self.continues,
            self.special,
        )

    @property
    def max_bytes(self) -> int:
        # Six bytes are the longest that JSON makes of a character: of a control character.
        return 6 * self.max_chars + 4096

    def checked(self, answer: Any) -> str:
        """The text that a worker has given. Raises WorkError."""
        if not isinstance(answer, str) or len(answer) > self.max_chars:
            raise WorkError("gave something else than a text")
        return answer


class Task(Protocol):
    """What a worker is asked for: the work's name, its arguments, and how much it may answer."""

    @property
    def work(self) -> str: ...

    @property
    def arguments(self) -> tuple[Any, ...]: ...

    @property
    def max_bytes(self) -> int: ...

    def checked(self, answer: Any) -> Any:
        """The result that an answer stands for. Raises WorkError for what is none."""
        ...


class TemplateQueue:
    """Renders chats, or does other such tasks, one at a time for each key; keys take turns.

    A key that computes for longer than _QUICK_S shares one thread with all that did lately: the
    others are never waited for but by such as are quick, however many slow ones are new. Each key
    has a worker of its own, kept for its next chat.
    """

    def __init__(self, limits: WorkLimits) -> None:
        self._limits = limits
        self._wake = threading.Condition()
        self._waiting: OrderedDict[str, deque[tuple[Task, Future[Any]]]] = OrderedDict()
        self._running: dict[str, Worker | None] = {}
        self._idle: OrderedDict[str, Worker] = OrderedDict()
        self._slow: OrderedDict[str, float] = OrderedDict()
        self._threads = 0
        self._closed = False

    def render(self, key: str, task: Task) -> Future[Any] | None:
        """Text of a chat, or result of another task; None if as many as may wait for the key.
        Cancel what is not wanted any more.

        The future fails with WorkError or EngineStoppedError.
        """
        future: Future[Any] = Future()
        with self._wake:
            if self._closed:
                raise EngineStoppedError("the engine is shutting down")
            waiting = self._waiting.setdefault(key, deque())
            if len(waiting) >= MAX_WAITING:
                kept = [one for one in waiting if not one[1].cancelled()]
                waiting.clear()
                waiting.extend(kept)
                if len(waiting) >= MAX_WAITING:
                    return None
            waiting.append((task, future))
            if self._threads < _THREADS:
                self._threads += 1
                threading.Thread(target=self._run, name="loramux-templates", daemon=True).start()
            self._wake.notify()
        return future

    def close(self) -> None:
        """Fail what waits, and end the workers. Idempotent."""
        with self._wake:
            self._closed = True
            waiting = [future for tasks in self._waiting.values() for _, future in tasks]
            self._waiting.clear()
            for worker in [*self._idle.values(), *self._running.values()]:
                if worker is not None:
                    worker.interrupt()
            self._wake.notify_all()
        for future in waiting:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(EngineStoppedError("the engine was shut down"))

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            key, task, future, worker = taken
            try:
                if future.running() or future.set_running_or_notify_cancel():
                    worker = self._render(key, task, future, worker)
            finally:
                self._give_back(key, worker)

    def _take(self) -> tuple[str, Task, Future[Any], Worker | None] | None:
        """The next chat, with its key's worker; None once the queue is closed."""
        with self._wake:
            while not self._closed:
                if (key := self._next_key()) is not None:
                    task, future = self._waiting[key].popleft()
                    if self._waiting[key]:
                        self._waiting.move_to_end(key)
                    else:
                        del self._waiting[key]
                    worker = self._running[key] = self._idle.pop(key, None)
                    return key, task, future, worker
                self._wake.wait()
            return None

    def _next_key(self) -> str | None:
        slow_runs = any(self._is_slow(key) for key in self._running)
        return next(
            (
                key
                for key in self._waiting
                if key not in self._running and not (slow_runs and self._is_slow(key))
            ),
            None,
        )

    def _is_slow(self, key: str) -> bool:
        return time.monotonic() - self._slow.get(key, float("-inf")) < _SLOW_S

    def _render(
        self, key: str, task: Task, future: Future[Any], worker: Worker | None
    ) -> Worker | None:
        """Render one, and give the worker if it can go on."""
        is_slow, began = self._is_slow(key), time.monotonic()
        limits = self._limits
        is_first_try = not is_slow and (limits.cpu_seconds or limits.seconds) > _QUICK_S
        if is_first_try:
            limits = replace(limits, cpu_seconds=_QUICK_S)
        try:
            if worker is None:
                worker = WORKERS.worker()
                with self._wake:
                    self._running[key] = worker
                    if self._closed:
                        worker.interrupt()
            answer = worker.ask(task.work, *task.arguments, limits=limits, max_bytes=task.max_bytes)
            result = task.checked(answer)
            if is_slow and time.monotonic() - began < _QUICK_S:
                with self._wake:  # before the result: who has it may ask at once for another
                    self._slow.pop(key, None)
            future.set_result(result)
            return worker
        except BaseException as error:
            if worker is not None:  # what it has done may have left it large
                worker.close()
            if isinstance(error, WorkTimeoutError):
                self._note_slow(key)
                if is_first_try and self._put_back(key, task, future):
                    return None
            if self._closed:
                error = EngineStoppedError("the engine was shut down")
            future.set_exception(error)
            return None

    def _put_back(self, key: str, task: Task, future: Future[Any]) -> bool:
        """Queue a chat again that has begun; False once the queue is closed."""
        with self._wake:
            if not self._closed:
                self._waiting.setdefault(key, deque()).appendleft((task, future))
            return not self._closed

    def _note_slow(self, key: str) -> None:
        with self._wake:
            self._slow[key] = time.monotonic()
            self._slow.move_to_end(key)
            while len(self._slow) > _MAX_SLOW:
                self._slow.popitem(last=False)

    def _give_back(self, key: str, worker: Worker | None) -> None:
        with self._wake:
            del self._running[key]
            if worker is not None and not worker.closed:
                self._idle[key] = worker
            over = len(self._idle) if self._closed else len(self._idle) - _IDLE_WORKERS
            for _ in range(over):
                self._idle.popitem(last=False)[1].close()
            self._wake.notify_all()
