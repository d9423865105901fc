"""Events of the store, and the lock after which they go out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from ...api.adapters import AdapterInfo
from .version import AdapterVersion

log = logging.getLogger(__name__)


class StoreListener(Protocol):
    """Hears of the adapters; called without the store's lock, on any thread."""

    def adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        """A version was read and checked, and may be in a slot."""

    def adapter_failed(self, versions: Sequence[AdapterVersion], error: Exception) -> None:
        """Versions that requests wait for cannot be had, several not together."""

    def adapter_evicted(self, version: AdapterVersion, info: AdapterInfo, reason: str) -> None: ...

    def adapter_out_of_service(self, version: AdapterVersion, info: AdapterInfo) -> None:
        """Steps with it fail; `info.error` says how."""

    def adapter_forgotten(self, version: AdapterVersion) -> None:
        """No id knows it and no request uses it any more."""

    def registrations_changed(self) -> None: ...


class EventLock(StoreListener):
    """The store's lock, re-entrant, and the condition on it; what the listener is told under it, it
    hears after it."""

    def __init__(self, listener: StoreListener) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._listener = listener
        self._events: list[Callable[[], None]] = []
        self._depth = 0

    def __enter__(self) -> None:
        """Take the lock; the events under it are delivered after it, by whoever took it first."""
        self.changed.acquire()
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        events: list[Callable[[], None]] = []
        self._depth -= 1
        if self._depth == 0 and self._events:
            events, self._events = self._events, []
        self.changed.release()
        for event in events:
            try:
                event()
            except Exception:  # the others are to be heard of, and the call has done its work
                log.exception("an adapter's news was not heard")

    @contextmanager
    def if_free(self) -> Iterator[bool]:
        """Take the lock unless another thread has it, and say whether; never waits."""
        if not self.changed.acquire(blocking=False):
            yield False
            return
        self._depth += 1
        try:
            yield True
        finally:
            self.__exit__()

    def adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        self._events.append(partial(self._listener.adapter_loaded, info, seconds))

    def adapter_failed(self, versions: Sequence[AdapterVersion], error: Exception) -> None:
        self._events.append(partial(self._listener.adapter_failed, versions, error))

    def adapter_evicted(self, version: AdapterVersion, info: AdapterInfo, reason: str) -> None:
        self._events.append(partial(self._listener.adapter_evicted, version, info, reason))

    def adapter_out_of_service(self, version: AdapterVersion, info: AdapterInfo) -> None:
        self._events.append(partial(self._listener.adapter_out_of_service, version, info))

    def adapter_forgotten(self, version: AdapterVersion) -> None:
        self._events.append(partial(self._listener.adapter_forgotten, version))

    def registrations_changed(self) -> None:
        self._events.append(self._listener.registrations_changed)
