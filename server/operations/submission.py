"""Submission of requests to the engine, the same for every front: turns, threads, time, sizes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from lora_runtime import Engine, InvalidRequestError, PromptTokens, Request, RequestHandle

from ..auth.tokens import Caller, keys_of
from ..threads import Threads, Turns
from ..tracing.current import loading, submitting
from .answer_size import check_handle
from .resolver import Resolver

_THREADS_EACH = max(2, (os.cpu_count() or 1) // 2)
"""Threads for submission that one caller may have at once, and half of those of one adapter:
tokenizers compute, and steps need the cores, too."""
_AT_ONCE = 32
"""Requests that go in straight from the event loop within one turn of it, each in a quarter of a
millisecond."""
M = TypeVar("M")


@dataclasses.dataclass(frozen=True)
class _Made(Generic[M]):
    """What was made of a prompt's tokens: nothing is left behind when nobody waits for it."""

    value: M

    def cancel(self) -> None:
        """Let go of it."""


T = TypeVar("T", bound=RequestHandle | Future | _Made)
D = TypeVar("D", bound=RequestHandle | _Made)


class _Turn:
    """What goes in within one turn of the event loop: what a flood has beyond that goes by threads,
    so that it holds up nobody else's."""

    def __init__(self, most: int = _AT_ONCE) -> None:
        self._most = self._left = most

    def has_room(self) -> bool:
        """Take a place, if there is one."""
        if self._left == self._most:
            asyncio.get_running_loop().call_soon(self._renew)
        if not self._left:
            return False
        self._left -= 1
        return True

    def _renew(self) -> None:
        self._left = self._most


class Submission:
    """Submission of one server: its turns are those of all fronts together."""

    def __init__(
        self, engine: Callable[[], Engine], threads: Threads, resolver: Resolver | None = None
    ) -> None:
        self._engine, self._threads, self._resolver = engine, threads, resolver
        self._callers, self._adapters = Turns(_THREADS_EACH), Turns(2 * _THREADS_EACH)
        self._turn = _Turn()

    async def submit(
        self,
        request: Request,
        who: Caller,
        time_left: Callable[[], float | None] = lambda: None,
        max_bytes: int | None = None,
    ) -> RequestHandle:
        """Submit, off the event loop but for short prompts: tokenizing takes milliseconds.

        An adapter that was never read here may take seconds or more: its reading is not on the
        threads for submission. `time_left`: seconds that the caller still waits. `max_bytes`: the
        most that the answer as a whole may have. Whoever has the handle cancels it.
        """
        engine = self._engine()
        with submitting(request) as traced:
            await self._resolve(traced, who)
            # To go to a thread and back takes as long as a short prompt does.
            if self._turn.has_room() and (
                handle := engine.submit_at_once(_of(traced, who, time_left))
            ):
                return _if_it_fits(handle, max_bytes, engine)
            return await self._prepared(
                traced,
                who,
                time_left,
                lambda late: _if_it_fits(engine.submit(late), max_bytes, engine),
            )

    async def tokenize(
        self,
        request: Request,
        who: Caller,
        make: Callable[[PromptTokens], M],
        add_special_tokens: bool = True,
    ) -> M:
        """Tokenize a request's prompt, and make something of its tokens, as `submit` would."""
        engine = self._engine()

        def tokenize(late: Request) -> _Made[M]:
            return _Made(make(engine.tokenize(late, add_special_tokens=add_special_tokens)))

        await self._resolve(request, who)
        return (await self._prepared(request, who, lambda: None, tokenize)).value

    async def _prepared(
        self,
        request: Request,
        who: Caller,
        time_left: Callable[[], float | None],
        work: Callable[[Request], D],
    ) -> D:
        """Do `work` with a request, on a thread, once its adapters have been read."""
        engine = self._engine()
        request = _of(request, who, time_left)

        def work_if_prepared() -> D | Future[None]:
            reading = engine.prepare(request)
            is_ready = reading.done() and reading.exception() is None
            return work(request) if is_ready else reading  # one that failed is reported already

        begun = await self._in_turn(request, who, work_if_prepared)
        if not isinstance(begun, Future):
            return begun
        await asyncio.wrap_future(begun)
        late = dataclasses.replace(request, timeout_s=time_left())
        return await self._in_turn(request, who, lambda: work(late))

    async def _resolve(self, request: Request, who: Caller) -> None:
        """Bring in the adapters that are not known, if that is switched on."""
        uses, engine = request.uses, self._engine()
        if self._resolver is None or len(uses) > engine.request_limits.adapters:
            return
        for use in uses:
            if not engine.has_adapter(use.adapter_id):
                with loading(request, use.adapter_id):
                    await self._resolver.bring_in(use.adapter_id, who)

    async def _in_turn(self, request: Request, who: Caller, work: Callable[[], T]) -> T:
        """Run `work` on a thread; cancel what it gives if the call is gone before it is done.

        Neither one adapter, whose template and tokenizer are its author's, nor one caller with a
        token has all of the threads.
        """
        names = keys_of(who)
        # Each once and in one order, whatever a caller names: else two calls wait for each other.
        adapters = sorted({use.adapter_id for use in request.uses})
        if not names and not adapters:
            adapters = [""]  # the base's turns are for calls without a token: others have their own
        async with self._callers.taken(*names), self._adapters.taken(*adapters):
            return await self._threads.submission.run(work, late=lambda given: given.cancel())


def _of(request: Request, who: Caller, time_left: Callable[[], float | None]) -> Request:
    """Make it the caller's, with the time that is left."""
    return dataclasses.replace(
        request, caller=who.name, caller_max_waiting=who.max_waiting, timeout_s=time_left()
    )


def _if_it_fits(handle: RequestHandle, max_bytes: int | None, engine: Engine) -> RequestHandle:
    """Give a request whose answer fits into a message; another is ended before a step has it."""
    if max_bytes is None:
        return handle
    try:
        check_handle(handle, engine, max_bytes)
    except InvalidRequestError:
        handle.cancel()
        raise
    return handle
