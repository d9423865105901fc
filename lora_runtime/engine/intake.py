"""The way of a request into the queue: its adapters read and leased, its prompt encoded, its place
counted."""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial

from ..adapters.store.store import AdapterStore
from ..api.requests import Request
from ..errors import LoramuxError, RequestTimeoutError
from ..requests.handle import RequestHandle
from ..scheduling.limits import Limits
from .chats import ForeignChats
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
        chats: ForeignChats,
    ) -> None:
        self._builder, self._store, self._limits = builder, store, limits
        self._inbox, self._observers, self._chats = inbox, observers, chats

    def submit(self, request: Request) -> RequestHandle:
        """Wait for its adapters' first reading, and queue it. Raises as Engine.submit."""
        arrived = time.monotonic()
        try:
            prepared = self._prepare(request)
            try:
                prepared.result(request.timeout_s)
            except TimeoutError:
                if request.messages is not None:
                    prepared.cancel()  # a chat is not rendered for nobody
                raise RequestTimeoutError(
                    "the request's deadline passed while its adapter was read, or its chat rendered"
                ) from None
            return self._submit(request, arrived)
        except LoramuxError as error:
            self._observers.notify("on_request_rejected", request, error)
            raise

    def prepare(self, request: Request) -> Future[None]:
        """Begin its adapters' first reading, and the rendering of its chat where that is not done
        here. Raises as Engine.prepare."""
        try:
            reading = self._prepare(request)
        except LoramuxError as error:
            self._observers.notify("on_request_rejected", request, error)
            raise
        reading.add_done_callback(partial(self._note_unprepared, request))
        return reading

    def _prepare(self, request: Request) -> Future[None]:
        request.validate()
        self._inbox.check_room(0)  # before a read begins that nobody would wait for
        reading = self._store.slots.prepare(request.uses)
        if not reading.done():
            adapter_ids = [use.adapter_id for use in request.uses]
            self._limits.enter(adapter_ids, 1, 0)
            reading.add_done_callback(lambda _: self._limits.leave(adapter_ids, 1))
            self._inbox.expect(reading)
        return self._with_chat(request, reading)

    def _with_chat(self, request: Request, reading: Future[None]) -> Future[None]:
        """Future of a reading, and of the chat's rendering after it."""
        if request.messages is None or len(request.uses) != 1:
            return reading
        if reading.done():
            return self._render(request) if reading.exception() is None else reading
        whole: Future[None] = Future()
        whole.add_done_callback(lambda done: reading.cancel() if done.cancelled() else None)
        reading.add_done_callback(lambda done: self._go_on(request, done, whole))
        return whole

    def _go_on(self, request: Request, reading: Future[None], whole: Future[None]) -> None:
        """Render a chat whose adapter has just been read, for `whole`."""
        try:
            reading.result()
            rendering = self._render(request)
        except BaseException as error:
            if whole.set_running_or_notify_cancel():
                whole.set_exception(error)
            return
        whole.add_done_callback(lambda done: rendering.cancel() if done.cancelled() else None)
        rendering.add_done_callback(lambda done: _pass_on(done, whole))

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

    def _note_unprepared(self, request: Request, reading: Future[None]) -> None:
        if not reading.cancelled() and isinstance(error := reading.exception(), LoramuxError):
            self._observers.notify("on_request_rejected", request, error)

    def _submit(self, request: Request, arrived: float) -> RequestHandle:
        self._inbox.check_open()
        uses = request.uses
        versions = self._store.lease(uses)
        try:
            live = self._builder.build(request, versions, arrived)
            self._limits.enter(live.adapter_ids, len(live.sequences), live.sequences[0].num_prompt)
            try:
                self._inbox.submit(live)
            except BaseException:
                self._limits.leave(live.adapter_ids, len(live.sequences))
                raise
        except BaseException:
            self._store.release(uses, versions)
            raise
        return live.handle


def _pass_on(done: Future[None], whole: Future[None]) -> None:
    if done.cancelled() or not whole.set_running_or_notify_cancel():
        whole.cancel()
    elif (error := done.exception()) is not None:
        whole.set_exception(error)
    else:
        whole.set_result(None)
