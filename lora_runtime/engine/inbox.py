"""Inbox of the engine thread: what other threads have for it, and what they must know of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..adapters.store.version import AdapterVersion
from ..errors import RETRY_AFTER_S, EngineFailedError, EngineStoppedError, QueueFullError
from ..requests.handle import RequestHandle
from ..requests.sequence import LiveRequest

_TURNS = 8
"""Turns of an event loop, of some microseconds where there is nothing to do, that a call takes at
most from its arrival to here: calls that came together wake the engine thread together."""

_GATHERING_S = 0.003
"""Seconds for these turns at most, from the engine thread's first look on."""


@dataclass
class Arrivals:
    """Everything that has arrived since the last look."""

    requests: list[LiveRequest] = field(default_factory=list)
    cancelled: set[RequestHandle] = field(default_factory=set)
    failed: list[tuple[Sequence[AdapterVersion], Exception]] = field(default_factory=list)
    """Versions that requests wait for and that cannot be had, several not together."""
    forgotten: list[AdapterVersion] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)
    adapter_arrived: bool = False
    mask_arrived: bool = False
    """Whether a row that sat out can go on."""
    fatal: Exception | None = None
    """Error that the engine cannot go on after."""

    def __bool__(self) -> bool:
        return bool(
            self.requests
            or self.cancelled
            or self.failed
            or self.forgotten
            or self.unloaded
            or self.adapter_arrived
            or self.mask_arrived
            or self.fatal
        )


class Inbox:
    """Inbox for all threads.

    At most `max_running + max_waiting` sequences are unfinished at once.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running, self._max_waiting = max_running, max_waiting
        self._changed = threading.Condition()
        self._mail = Arrivals()
        self._admitting = False
        self._stopping = False
        self.failure: BaseException | None = None
        self.unfinished_sequences = 0
        self._unfinished_requests = 0
        self._expected = 0
        self._waking: asyncio.AbstractEventLoop | None = None
        """Loop that will wake the engine thread; one that has ended meanwhile will not."""

    def open(self) -> None:
        self._admitting = True

    def close(self) -> None:
        """Take no more requests."""
        with self._changed:
            self._admitting = False

    def check_open(self) -> None:
        """Check that requests are taken. Raises EngineFailedError, EngineStoppedError."""
        if self.failure is not None:
            raise EngineFailedError("the engine has failed") from self.failure
        if not self._admitting:
            raise EngineStoppedError("the engine takes no new requests")

    def expect(self, sequences: int, ready: Future[None]) -> None:
        """Count the sequences of a request that waits for `ready` as waiting until that is done.

        Raises as `submit`.
        """
        with self._changed:
            self.check_room(sequences)
            self._expected += sequences
        ready.add_done_callback(lambda _: self._expect_less(sequences))

    def submit(self, live: LiveRequest, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Submit a request. Raises QueueFullError, EngineFailedError, EngineStoppedError.

        With `loop`, the caller's, the engine thread is woken when what is ready there has run: the
        requests that have come together run together.
        """
        with self._changed:
            self.check_room(len(live.sequences))
            self.unfinished_sequences += len(live.sequences)
            self._unfinished_requests += 1
            self._mail.requests.append(live)
            if loop is None:
                self._changed.notify_all()
        if loop is not None and self._waking is not loop:
            self._waking = loop
            loop.call_soon(self._wake, loop, _TURNS)

    def _wake(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        """Wake the engine thread after `turns` more turns of the loop."""
        if turns:
            loop.call_soon(self._wake, loop, turns - 1)
            return
        self._waking = None
        with self._changed:
            self._changed.notify_all()

    def check_room(self, sequences: int) -> None:
        """Check that there is room for more sequences. Raises as `submit`."""
        self.check_open()
        if (
            self.unfinished_sequences + self._expected + sequences
            > self._max_running + self._max_waiting
        ):
            raise QueueFullError(self._max_waiting, RETRY_AFTER_S)

    def _expect_less(self, sequences: int) -> None:
        with self._changed:
            self._expected -= sequences

    def post(self, change: Callable[[Arrivals], object]) -> None:
        """Add to the mail."""
        with self._changed:
            change(self._mail)
            self._changed.notify_all()

    def stop(self, drain_s: float) -> None:
        """Let the engine thread end, once all requests have or `drain_s` seconds are over."""
        with self._changed:
            self._changed.notify_all()  # of requests whose loop has not come to it: it may wait here
            self._changed.wait_for(lambda: not self._unfinished_requests or self.failure, drain_s)
            self._stopping = True
            self._changed.notify_all()

    def untaken(self) -> list[LiveRequest]:
        """Requests that the engine thread has not taken."""
        with self._changed:
            return list(self._mail.requests)

    # --- the engine thread's side ---------------------------------------------------------------

    def take(self, timeout_s: float | None) -> Arrivals | None:
        """The mail; waits for some for `timeout_s` seconds, None for ever. None when the thread is
        to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._mail or self._stopping, timeout_s)
            if timeout_s is None:
                self._gather()
            if self._stopping:
                return None
            mail, self._mail = self._mail, Arrivals()
            return mail

    def _gather(self) -> None:
        """Wait, with nothing to compute, for the loop that is about to wake this thread: mail that
        came during the last step would else be a step of its own, and the rest of the calls that
        came with it the next one."""
        self._changed.wait_for(lambda: self._waking is None or self._stopping, _GATHERING_S)
        self._waking = None

    def take_last_requests(self) -> list[LiveRequest]:
        """Close, and give what had not been taken."""
        with self._changed:
            self._admitting = False
            requests, self._mail.requests = self._mail.requests, []
            return requests

    def sequence_finished(self) -> None:
        with self._changed:
            self.unfinished_sequences -= 1

    def request_finished(self) -> None:
        with self._changed:
            self._unfinished_requests -= 1
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self.failure = error
            self._changed.notify_all()
