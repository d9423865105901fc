"""Messages read by a response template, in a worker: neither its patterns nor the texts that they
read can hold anybody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ...api.answers import TokenEvent
from ...api.parsed import MessageDelta, ToolCallDelta
from ...errors import EngineStoppedError
from ...foreign.answer_workers import AnswerWorkers
from ...foreign.answers import OPEN, READ
from ...foreign.process import WORKERS, Worker, WorkError, WorkTimeoutError
from ..text.shown_text import ShownText
from .parsing import with_message

_EACH_S = 0.005
"""Seconds of computing that reading on may take each time, beside those that a request has once."""
_LATE = 1 << 13
"""Characters that wait where nobody waits for parts."""
_Piece = tuple[int, str, bool]
"""A choice's index, its new text, and whether it is the last."""


@dataclass(frozen=True)
class Reading:
    """What a worker needs to read a request's answers."""

    key: str
    """Whose template it is: its digest."""
    template: dict[str, Any]
    prompt: str
    tools: list[dict[str, Any]]
    takes_calls: bool
    all_calls: bool
    """False: the first alone."""


class TemplateParser:
    """MessageParser by a response template.

    Where reading fails, or takes too long, what is not told apart by then is content as it is.
    """

    def __init__(
        self, workers: AnswerWorkers, reading: Reading, texts: Sequence[ShownText]
    ) -> None:
        """`texts`: of each choice."""
        self._workers, self._reading = workers, reading
        self._choices = [_ChoiceText(text) for text in texts]
        self._open = len(self._choices)
        self._left = workers.limits.seconds
        self._worker: Worker | None = None
        self._asks: Worker | None = None
        """The same, while it works."""
        self._known = (
            reading.template,
            reading.prompt,
            reading.tools,
            reading.takes_calls,
            len(texts),
        )
        self._failed = self._closed = False
        self._lock = threading.Lock()
        """Held while the worker changes hands, never while it works."""

    def read(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        pieces = self._pieces(events, whole)
        answers = None
        if pieces and not self._failed:
            try:
                worker = self._worker or self._begin()
                with self._asking(worker):
                    answers = worker.ask(READ, [*pieces.values()], **self._limits(pieces))
            except WorkError as error:
                self._fail(error)
        return self._finish(events, pieces, answers)

    async def aread(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        pieces = self._pieces(events, whole)
        answers = None
        if pieces and not self._failed:
            try:
                worker = self._worker or await self._abegin()
                with self._asking(worker):
                    answers = await worker.aask(READ, [*pieces.values()], **self._limits(pieces))
            except WorkError as error:
                self._fail(error)
        return self._finish(events, pieces, answers)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._asks:
                self._asks.interrupt()  # who waits for it closes it
                return
            worker, self._worker = self._worker, None
        if worker is not None:
            if self._open:
                worker.close()  # what it has read so far is nobody else's
            self._workers.give_back(self._reading.key, worker)

    @contextmanager
    def _asking(self, worker: Worker) -> Iterator[None]:
        """Keep the worker's connection, whoever closes this."""
        with self._lock:
            if self._closed:
                worker.close()
                raise WorkError("was left")
            self._worker = self._asks = worker
        try:
            yield
        finally:
            with self._lock:
                self._asks = None
                if self._closed:
                    worker.close()

    def _begin(self) -> Worker:
        """A worker that knows the prompt. Raises WorkError."""
        limits = self._limits({})
        if (idle := self._workers.take(self._reading.key)) is not None:
            with suppress(WorkError), self._asking(idle):  # it may have died meanwhile
                idle.ask(OPEN, *self._known, **limits)
                return idle
        worker = WORKERS.worker()
        with self._asking(worker):
            worker.ask(OPEN, *self._known, **limits)
        return worker

    async def _abegin(self) -> Worker:
        limits = self._limits({})
        if (idle := self._workers.take(self._reading.key)) is not None:
            with suppress(WorkError), self._asking(idle):
                await idle.aask(OPEN, *self._known, **limits)
                return idle
        loop = asyncio.get_running_loop()
        try:
            worker = await loop.run_in_executor(self._workers.opening, WORKERS.worker)
        except RuntimeError as error:
            raise EngineStoppedError("the engine was shut down") from error
        with self._asking(worker):
            await worker.aask(OPEN, *self._known, **limits)
        return worker

    def _pieces(self, events: Sequence[TokenEvent], whole: bool) -> dict[int, _Piece]:
        """New texts, by the event that they come with: each, or fewer of them for a message that is
        wanted as a whole."""
        pieces = {}
        for place, event in enumerate(events):
            choice = self._choices[event.index]
            choice.waits += choice.text.push(event)
            is_last = event.finish_reason is not None
            if is_last or not whole or len(choice.waits) > _LATE:
                pieces[place] = (event.index, choice.waits, is_last)
                choice.open += choice.waits
                choice.waits = ""
        return pieces

    def _limits(self, pieces: dict[int, _Piece]) -> dict[str, Any]:
        characters = sum(len(choice.open) for choice in self._choices)
        # Six bytes are the longest that JSON makes of a character, and arguments are JSON in it.
        size = 12 * characters + 4096 * (1 + len(pieces))
        return {"limits": self._workers.limits, "max_bytes": size}

    def _fail(self, error: Exception) -> None:
        self._failed = True
        if not self._closed:
            self._workers.note(error)

    def _finish(
        self, events: Sequence[TokenEvent], pieces: dict[int, _Piece], answers: Any
    ) -> list[TokenEvent]:
        found = dict(zip(pieces, self._deltas(pieces, answers), strict=True))
        self._open -= sum(event.finish_reason is not None for event in events)
        if not self._open:
            self.close()
        nothing = MessageDelta()
        return [with_message(e, found.get(place, nothing)) for place, e in enumerate(events)]

    def _count(self, seconds: float) -> None:
        """Count what reading on has taken. Raises WorkTimeoutError for what is too much in all."""
        most = self._workers.limits.seconds
        self._left = min(most, self._left + _EACH_S - seconds)
        if self._left < 0:
            raise WorkTimeoutError(f"took longer than {most:g} s in all")

    def _deltas(self, pieces: dict[int, _Piece], answers: Any) -> Iterator[MessageDelta]:
        for i, (index, _, _) in enumerate(pieces.values()):
            choice = self._choices[index]
            if not self._failed:
                try:
                    if i == 0:
                        self._count(answers["seconds"])
                    yield choice.delta(answers["read"][i], self._reading.all_calls)
                    continue
                except WorkError as error:
                    self._fail(error)
                except (TypeError, ValueError, LookupError):  # a worker in a stranger's hands
                    self._fail(WorkError("made its worker give something else"))
            text, choice.open = choice.open, ""
            yield MessageDelta(text)


class _ChoiceText:
    """Text of one choice: what waits to be sent, and what was sent and is not told apart yet."""

    def __init__(self, text: ShownText) -> None:
        self.text = text
        self.waits = self.open = ""
        self._settled = self._calls = 0

    def delta(self, answer: dict[str, Any], all_calls: bool) -> MessageDelta:
        """Take what a worker has read. Raises TypeError, ValueError, LookupError."""
        content, reasoning, settled = answer["content"], answer["reasoning"], answer["settled"]
        calls = [(str(i), str(name), str(arguments)) for i, name, arguments in answer["calls"]]
        if not all_calls:
            calls = calls[: 0 if self._calls else 1]
        f"{content}{reasoning}{calls}".encode()
        self.open = self.open[max(0, settled - self._settled) :]
        self._settled = settled
        first, self._calls = self._calls, self._calls + len(calls)
        return MessageDelta(
            content + "",
            reasoning + "",
            tuple(ToolCallDelta(first + i, *call) for i, call in enumerate(calls)),
        )
