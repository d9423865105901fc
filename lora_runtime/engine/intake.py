"""The way of a request into the queue: its adapters read and leased, its prompt encoded, its place
counted."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..adapters.store.store import AdapterStore
from ..adapters.store.version import AdapterVersion
from ..api.limits import RequestLimits
from ..api.requests import Request
from ..errors import (
    EngineFailedError,
    LoramuxError,
    RequestTimeoutError,
    described,
    ends_thread,
)
from ..requests.handle import RequestHandle
from ..requests.prompts.prompt_tokens import PromptTokens
from ..requests.text.backend import SHORT_CHARACTERS
from ..scheduling.limits import Limits
from .chats import ForeignChats
from .inbox import Inbox
from .messages import about_tools
from .observers import Observers
from .submit import RequestBuilder

log = logging.getLogger(__name__)
_LIGHT_ENTRIES = 256
_LIGHT_CHOICES = 2


class Intake:
    """Works on the callers' threads; see Engine.submit and Engine.prepare."""

    def __init__(
        self,
        builder: RequestBuilder,
        store: AdapterStore,
        limits: Limits,
        inbox: Inbox,
        observers: Observers,
        request_limits: RequestLimits,
        chats: ForeignChats,
    ) -> None:
        self._builder, self._store, self._limits = builder, store, limits
        self._inbox, self._observers, self._chats = inbox, observers, chats
        self._request_limits = request_limits

    def submit(self, request: Request) -> RequestHandle:
        """Wait for its adapters' first reading, and queue it. Raises as Engine.submit."""
        arrived = time.monotonic()
        with self._rejecting(request):
            self._wait_until_prepared(request)
            self._inbox.check_open()
            return self._submit(request, self._store.lease(request.uses), arrived)

    def submit_at_once(self, request: Request) -> RequestHandle | None:
        """Queue a request that takes no longer than a thread's start, on the running event loop.
        Raises as Engine.submit."""
        loop = asyncio.get_running_loop()
        if not is_light(request):
            return None
        arrived = time.monotonic()
        with self._rejecting(request):
            self._check(request)
            versions = self._store.lease_at_once(request.uses)
            return None if versions is None else self._submit(request, versions, arrived, loop)

    def tokenize(self, request: Request, add_special_tokens: bool) -> PromptTokens:
        """Wait as `submit`, and encode its prompt alone. Raises as Engine.tokenize."""
        with self._rejecting(request):
            self._wait_until_prepared(request)
            versions = self._store.lease(request.uses)
            try:
                return self._builder.tokens(request, versions, add_special_tokens)
            finally:
                self._store.release(request.uses, versions)

    def prepare(self, request: Request) -> Future[None]:
        """Begin its adapters' first reading, and the rendering of its chat where that is not done
        here. Raises as Engine.prepare."""
        with self._rejecting(request):
            reading = self._prepare(request)
        reading.add_done_callback(partial(self._note_unprepared, request))
        return reading

    @contextmanager
    def _rejecting(self, request: Request) -> Iterator[None]:
        """Tell the observers when this raises. What is no error of the runtime's is one then: the
        code that reads prompts is not all of it ours, and a panic there is no Exception."""
        try:
            yield
        except LoramuxError as error:
            self._observers.notify("on_request_rejected", request, error)
            raise
        except BaseException as error:
            if ends_thread(error):
                raise
            log.error("request %s cannot be taken in", request.request_id, exc_info=error)
            told = EngineFailedError(f"the request cannot be taken in: {described(error)}")
            self._observers.notify("on_request_rejected", request, told)
            raise told from error

    def _wait_until_prepared(self, request: Request) -> None:
        prepared = self._prepare(request)
        try:
            _wait_for(prepared, request.timeout_s)
        except TimeoutError:
            prepared.cancel()  # its place is free, and a chat is not rendered for nobody
            raise RequestTimeoutError(
                "the request's deadline passed while its adapter was read, or its chat rendered"
            ) from None

    def _check(self, request: Request) -> None:
        """Check what it asks for, and that there is room: before a read begins that nobody would
        wait for, and before a prompt is encoded."""
        request.validate(self._request_limits)
        choices = request.sampling.n
        self._inbox.check_room(choices)
        self._limits.check(
            _adapter_ids(request), choices, request.caller, request.caller_max_waiting
        )

    def _prepare(self, request: Request) -> Future[None]:
        self._check(request)
        reading = self._store.slots.prepare(request.uses)
        if not reading.done():
            adapter_ids, choices = _adapter_ids(request), request.sampling.n
            self._limits.enter(adapter_ids, choices, 0, request.caller, request.caller_max_waiting)
            reading.add_done_callback(
                lambda _: self._limits.leave(adapter_ids, choices, request.caller)
            )
            self._inbox.expect(choices, reading)
            reading.add_done_callback(partial(self._note_read, request, time.monotonic()))
        ready = reading
        if request.messages is not None and len(request.uses) == 1:
            ready = _after(ready, lambda: self._render(request))
        if request.is_constrained:
            ready = _after(ready, lambda: self._compile(request))
        return ready

    def _render(self, request: Request) -> Future[None]:
        """Begin the rendering of a chat by its adapter's template, if it has one of its own."""
        versions = self._store.lease(request.uses)
        try:
            if self._chats.concern(request, versions[0]):
                return self._chats.begin(request, versions[0])
        finally:
            self._store.release(request.uses, versions)
        nothing: Future[None] = Future()
        nothing.set_result(None)
        return nothing

    def _compile(self, request: Request) -> Future[None]:
        """Begin the compilation of its structured answer's grammar."""
        versions = self._store.lease(request.uses)
        try:
            compiling = self._builder.compile(request, versions)
        finally:
            self._store.release(request.uses, versions)
        own: Future[None] = Future()  # the other is for all who want the same
        told = about_tools if request.forces_call else None
        compiling.add_done_callback(lambda done: _pass_on(done, own, told))
        return own

    def _note_read(self, request: Request, began: float, reading: Future[None]) -> None:
        self._observers.notify("on_adapters_read", request, time.monotonic() - began)

    def _note_unprepared(self, request: Request, reading: Future[None]) -> None:
        if not reading.cancelled() and isinstance(error := reading.exception(), LoramuxError):
            self._observers.notify("on_request_rejected", request, error)

    def _submit(
        self,
        request: Request,
        versions: list[AdapterVersion],
        arrived: float,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> RequestHandle:
        """Queue a request with the versions that are leased for it, or release them."""
        try:
            live = self._builder.build(request, versions, arrived)
            choices = len(live.sequences)
            self._limits.enter(
                live.adapter_ids,
                choices,
                live.sequences[0].num_prompt,
                request.caller,
                request.caller_max_waiting,
            )
            try:
                self._inbox.submit(live, loop)
            except BaseException:
                self._limits.leave(live.adapter_ids, choices, request.caller)
                raise
        except BaseException:
            release = self._store.release if loop is None else self._store.release_at_once
            release(request.uses, versions)
            raise
        return live.handle


def is_light(request: Request) -> bool:
    """Whether a request is made ready in a tenth of a millisecond or two: a short prompt, nothing to
    render, to compile or to parse."""
    params = request.sampling
    return (
        request.messages is None
        and not request.is_constrained
        and not request.parse_answer
        and len(request.prompt or "") <= SHORT_CHARACTERS
        and len(request.token_ids or ()) <= _LIGHT_ENTRIES
        and len(params.logit_bias) <= _LIGHT_ENTRIES
        and params.n <= _LIGHT_CHOICES
    )


def _wait_for(reading: Future[None], timeout_s: float | None) -> None:
    """Wait as `result` does, but until the request is counted as waiting no more: else it might
    find its own place taken."""
    told = threading.Event()
    reading.add_done_callback(lambda _: told.set())  # the last of its callbacks
    if not told.wait(None if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX)):
        raise TimeoutError
    reading.result()


def _adapter_ids(request: Request) -> list[str]:
    """Adapters against whose limits it counts; "" is the base."""
    return [use.adapter_id for use in request.uses] or [""]


def _after(first: Future[None], begin: Callable[[], Future[None]]) -> Future[None]:
    """Future of what `begin` begins once `first` is done."""
    if first.done():
        return begin() if first.exception() is None else first
    whole: Future[None] = Future()
    whole.add_done_callback(lambda done: first.cancel() if done.cancelled() else None)

    def go_on(done: Future[None]) -> None:
        try:
            done.result()
            second = begin()
        except BaseException as error:
            if whole.set_running_or_notify_cancel():
                whole.set_exception(error)
            return
        whole.add_done_callback(lambda end: second.cancel() if end.cancelled() else None)
        second.add_done_callback(lambda end: _pass_on(end, whole))

    first.add_done_callback(go_on)
    return whole


def _pass_on(
    done: Future[Any],
    whole: Future[None],
    told: Callable[[BaseException], BaseException] | None = None,
) -> None:
    """Let one end as another has; with an error as `told` tells it."""
    if done.cancelled() or not whole.set_running_or_notify_cancel():
        whole.cancel()
    elif (error := done.exception()) is not None:
        whole.set_exception(told(error) if told else error)
    else:
        whole.set_result(None)
