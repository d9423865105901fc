"""Compilation of structured answers' grammars, beside the threads that serve."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from ..adapters.peft.tokenizer.behaviour import backend_of
from ..api.structured import StructuredAnswer
from ..errors import (
    RETRY_AFTER_S,
    CallerLimitError,
    EngineStoppedError,
    LoramuxError,
    described,
)
from ..foreign.process import WorkError, WorkLimits, WorkTimeoutError
from ..foreign.template_queue import MAX_WAITING, TemplateQueue
from .check import CHECK, MAX_RESULT_BYTES, compiled
from .row import RowGrammar
from .source import grammar_of, refusal
from .tokens import TokenTables

_QUICK_S = 0.1
"""Seconds of a trial up to which a grammar's masks are expected to be quick."""
GRAMMAR_BYTES = 256 << 20
"""Memory that the trial of a grammar may take."""
_CACHED_BYTES = 64 << 20
_ENTRY_BYTES = 64 << 10
"""Bytes that a grammar counts beside what its trial took."""
_Key = tuple[int, StructuredAnswer]


@dataclass(frozen=True)
class Trial:
    """Grammar to be tried by a worker."""

    grammar: str
    work: str = CHECK
    max_bytes: int = MAX_RESULT_BYTES

    @property
    def arguments(self) -> tuple[str]:
        return (self.grammar,)

    def checked(self, answer: Any) -> tuple[float, int]:
        """Seconds and bytes that it took. Raises WorkError for what no worker of ours gives."""
        match answer:
            case {"seconds": float() as seconds, "bytes": int() as size} if seconds >= 0 <= size:
                return seconds, size
        raise WorkError("gave something else than its cost")


@dataclass(frozen=True)
class Grammar:
    """Compiled grammar of an answer, for one tokenizer."""

    matcher: LLMatcher
    """At the beginning; each row has a copy."""
    vocab_size: int
    is_slow: bool
    num_bytes: int

    def row(self, ends: Collection[int], ignore_eos: bool) -> RowGrammar:
        """One sequence's place in it, at the beginning."""
        return RowGrammar(self.matcher.deep_copy(), self.vocab_size, ends, ignore_eos, self.is_slow)


class Grammars:
    """Compiles grammars and keeps them, by tokenizer and text.

    A stranger's grammar is tried by a worker first, under limits of time and memory. Callers take
    turns there, and what comes after a trial belongs to its turn.
    """

    def __init__(self, eos_ids: Collection[int], limits: WorkLimits) -> None:
        self._limits, self._has_ends = limits, bool(eos_ids)
        self._tables = TokenTables(eos_ids)
        self._trials = TemplateQueue(limits)
        self._threads = ThreadPoolExecutor(2, "loramux-grammars")
        self._lock = threading.Lock()
        self._grammars: OrderedDict[_Key, Grammar] = OrderedDict()
        self._begun: dict[_Key, Future[Grammar]] = {}
        self._counts: Counter[str] = Counter()

    def compile(self, tokenizer: Any, answer: StructuredAnswer, caller: str) -> Future[Grammar]:
        """Grammar of an answer; the same future for all who want it at once.

        Raises InvalidRequestError, CallerLimitError, EngineStoppedError; the future fails with
        these.
        """
        if not self._has_ends:
            raise refusal("needs a model with an end of sequence")
        key = id(backend_of(tokenizer)), answer
        whole: Future[Grammar] = Future()
        with self._lock:
            if (made := self._grammars.get(key)) is not None:
                self._grammars.move_to_end(key)
                whole.set_result(made)
                return whole
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
        """Write the grammar down, and let a worker try it."""

        def compile_it(trial: Future[tuple[float, int]]) -> None:
            with self._failing(whole):
                seconds, size = trial.result()
                try:
                    matcher = compiled(table, grammar)
                except ValueError as error:
                    raise refusal(str(error)) from error
                made = Grammar(matcher, table.vocab_size, seconds > _QUICK_S, size + _ENTRY_BYTES)
                self._keep((id(backend_of(tokenizer)), answer), made)
                whole.set_result(made)

        with self._failing(whole):
            table, grammar = self._tables.of(tokenizer), grammar_of(answer)
            trial = self._trials.render(caller, Trial(grammar))
            if trial is None:
                raise CallerLimitError(caller, f"{MAX_WAITING} grammars that wait", RETRY_AFTER_S)
            trial.add_done_callback(compile_it)

    @contextmanager
    def _failing(self, whole: Future[Grammar]) -> Iterator[None]:
        """Let what this raises be what the future fails with."""
        try:
            yield
        except BaseException as error:  # panics of Rust's code too
            if not whole.done():
                whole.set_exception(self._told(error))

    def _keep(self, key: _Key, made: Grammar) -> None:
        with self._lock:
            self._grammars[key] = made
            total = sum(one.num_bytes for one in self._grammars.values())
            while total > _CACHED_BYTES and len(self._grammars) > 1:
                total -= self._grammars.popitem(last=False)[1].num_bytes

    def _ended(self, key: _Key, caller: str) -> None:
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
