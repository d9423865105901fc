"""Compilation of structured answers' grammars, beside the threads that serve."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ..adapters.peft.tokenizer.behaviour import backend_of
from ..api.structured import StructuredAnswer
from ..errors import (
    RETRY_AFTER_S,
    CallerLimitError,
    EngineStoppedError,
    InvalidRequestError,
    LoramuxError,
    described,
)
from ..foreign.process import WorkError, WorkLimits, WorkTimeoutError
from ..foreign.template_queue import MAX_WAITING, TemplateQueue
from .check import CHECK, MAX_RESULT_BYTES, first_mask
from .grammar import Grammar
from .row import free
from .schemas import refusal
from .source import grammar_of
from .tokens import TokenTables

GRAMMAR_BYTES = 256 << 20
"""Memory that the trial of a grammar may take."""
_PATIENCE = 10
"""Times as long as the processor may take, by the clock: a busy machine is no grammar's fault."""
_Begun = tuple[str, int, StructuredAnswer]


@dataclass(frozen=True)
class Trial:
    """Grammar to be tried by a worker."""

    grammar: str
    work: str = CHECK
    max_bytes: int = MAX_RESULT_BYTES

    @property
    def arguments(self) -> tuple[str]:
        return (self.grammar,)

    def checked(self, answer: Any) -> float:
        """Seconds that it took. Raises WorkError for what no worker of ours gives."""
        match answer:
            case {"seconds": float() as seconds} if seconds >= 0:
                return seconds
        raise WorkError("gave something else than its cost")


class Grammars:
    """Tries grammars, and keeps those that can be had, by tokenizer and text.

    A stranger's grammar is tried by a worker first, under limits of time and memory. Callers take
    turns there, and what comes after a trial belongs to its turn.
    """

    def __init__(self, eos_ids: Collection[int], limits: WorkLimits) -> None:
        self._limits, self._has_ends = limits, bool(eos_ids)
        self._tables = TokenTables(eos_ids)
        self._trials = TemplateQueue(
            replace(limits, seconds=_PATIENCE * limits.seconds, cpu_seconds=limits.seconds)
        )
        self._threads = ThreadPoolExecutor(2, "loramux-grammars")
        self._lock = threading.Lock()
        self._begun: dict[_Begun, Future[Grammar]] = {}
        self._counts: Counter[str] = Counter()

    def get_ready(self, tokenizer: Any) -> None:
        """Make the base's table: llguidance lets no other thread run while it makes one."""
        if self._has_ends:
            with contextlib.suppress(InvalidRequestError):  # its requests are told
                self._tables.of(tokenizer)

    def compile(self, tokenizer: Any, answer: StructuredAnswer, caller: str) -> Future[Grammar]:
        """Grammar of an answer; the same future for all calls of one caller that want it at once.

        Raises InvalidRequestError, CallerLimitError, EngineStoppedError; the future fails with
        these.
        """
        if not self._has_ends:
            raise refusal("needs a model with an end of sequence")
        # Not another caller's, who may have much before it; the id holds while something is begun.
        key = caller, id(backend_of(tokenizer)), answer
        whole: Future[Grammar] = Future()
        if (table := self._tables.known(tokenizer)) and (made := table.grammar(answer)):
            whole.set_result(made)
            return whole
        with self._lock:
            if key in self._begun:
                return self._begun[key]
            if self._counts[caller] >= MAX_WAITING:
                raise CallerLimitError(caller, f"{MAX_WAITING} grammars that wait", RETRY_AFTER_S)
            self._begun[key] = whole
            self._counts[caller] += 1
        whole.set_running_or_notify_cancel()  # others may want it, whoever has gone
        whole.add_done_callback(lambda _: self._ended(key, caller))
        try:
            self._threads.submit(self._try, tokenizer, answer, caller, whole)
        except RuntimeError:
            whole.set_exception(EngineStoppedError("the engine is shutting down"))
        return whole

    def close(self) -> None:
        """Compile no more, and end the workers. Idempotent."""
        self._trials.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _try(
        self, tokenizer: Any, answer: StructuredAnswer, caller: str, whole: Future[Grammar]
    ) -> None:
        """Write the grammar down, let a worker try it, and then try it with all of the tokens."""

        def keep_it(trial: Future[float]) -> None:
            with self._failing(whole):
                made = Grammar(table.tokenizer, text, trial.result())
                try:
                    first_mask(matcher := made.matcher())
                except ValueError as error:
                    raise refusal(str(error)) from error
                free(matcher)
                table.keep(answer, made)
                whole.set_result(made)

        with self._failing(whole):
            table, text = self._tables.of(tokenizer), grammar_of(answer)
            trial = self._trials.render(caller, Trial(text))
            if trial is None:
                raise CallerLimitError(caller, f"{MAX_WAITING} grammars that wait", RETRY_AFTER_S)
            trial.add_done_callback(keep_it)

    @contextmanager
    def _failing(self, whole: Future[Grammar]) -> Iterator[None]:
        """Let what this raises be what the future fails with."""
        try:
            yield
        except BaseException as error:  # panics of Rust's code too
            if not whole.done():
                whole.set_exception(self._told(error))

    def _ended(self, key: _Begun, caller: str) -> None:
        with self._lock:
            del self._begun[key]
            self._counts[caller] -= 1
            if not self._counts[caller]:
                del self._counts[caller]

    def _told(self, error: BaseException) -> LoramuxError:
        limits = self._limits
        if isinstance(error, WorkTimeoutError) or "ended its process" in str(error):
            within = f"{limits.seconds:g} s and {limits.memory_bytes >> 20} MiB"
            return refusal(f"cannot be compiled within {within}")
        if isinstance(error, WorkError):
            return refusal(str(error))
        if isinstance(error, LoramuxError):
            return error
        return refusal(f"cannot be compiled: {described(error)}")
