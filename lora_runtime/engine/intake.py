"""The way of a request into the queue: its adapters read and leased, its prompt encoded, its place
counted."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from functools import partial

from ..adapters.store.store import AdapterStore
from ..api.requests import Request
from ..errors import LoramuxError, RequestTimeoutError
from ..requests.handle import RequestHandle
from ..scheduling.limits import Limits
from .inbox import Inbox
from .observers import Observers
from .submit import RequestBuilder


class Intake:
    """Works on the callers' threads; see Engine.submit and Engine.prepare."""

    def __init__(
        self,
        builder: RequestBuilder,
        store: AdapterStore,
        limits: Limits,
        inbox: Inbox,
        observers: Observers,
    ) -> None:
        self._builder, self._store, self._limits = builder, store, limits
        self._inbox, self._observers = inbox, observers

    def submit(self, request: Request) -> RequestHandle:
        """Wait for its adapters' first reading, and queue it. Raises as Engine.submit."""
        arrived = time.monotonic()
        try:
            try:
                _wait_for(self._prepare(request), request.timeout_s)
            except TimeoutError:
                raise RequestTimeoutError(
                    "the request's deadline passed while its adapter was read"
                ) from None
            return self._submit(request, arrived)
        except LoramuxError as error:
            self._observers.notify("on_request_rejected", request, error)
            raise

    def prepare(self, request: Request) -> Future[None]:
        """Begin its adapters' first reading. Raises as Engine.prepare."""
        try:
            reading = self._prepare(request)
        except LoramuxError as error:
            self._observers.notify("on_request_rejected", request, error)
            raise
        reading.add_done_callback(partial(self._note_unprepared, request))
        return reading

    def _prepare(self, request: Request) -> Future[None]:
        request.validate()
        adapter_ids, choices = _adapter_ids(request), request.sampling.n
        caller = request.caller, request.caller_max_waiting
        # Before a read begins that nobody would wait for, and before a prompt is encoded.
        self._inbox.check_room(choices)
        self._limits.check(adapter_ids, choices, *caller)
        reading = self._store.slots.prepare(request.uses)
        if not reading.done():
            self._limits.enter(adapter_ids, choices, 0, *caller)
            reading.add_done_callback(
                lambda _: self._limits.leave(adapter_ids, choices, request.caller)
            )
            self._inbox.expect(choices, reading)
        return reading

    def _note_unprepared(self, request: Request, reading: Future[None]) -> None:
        if not reading.cancelled() and isinstance(error := reading.exception(), LoramuxError):
            self._observers.notify("on_request_rejected", request, error)

    def _submit(self, request: Request, arrived: float) -> RequestHandle:
        self._inbox.check_open()
        uses = request.uses
        versions = self._store.lease(uses)
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
                self._inbox.submit(live)
            except BaseException:
                self._limits.leave(live.adapter_ids, choices, request.caller)
                raise
        except BaseException:
            self._store.release(uses, versions)
            raise
        return live.handle


def _wait_for(reading: Future[None], timeout_s: float | None) -> None:
    """Wait as `result` does, but until the request is counted as waiting no more: else it might
    find its own place taken."""
    told = threading.Event()
    reading.add_done_callback(lambda _: told.set())  # the last of its callbacks
    if not told.wait(timeout_s):
        raise TimeoutError
    reading.result()


def _adapter_ids(request: Request) -> list[str]:
    """Adapters against whose limits it counts; "" is the base."""
    return [use.adapter_id for use in request.uses] or [""]
