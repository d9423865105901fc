"""Readiness of the server: its state, what it waits for, and the lines of the log that say so."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import structlog

from ..declared import DeclaredState, DeclaredStatus

log = structlog.get_logger("loramux.server")
_SAY_AGAIN_S = 10.0
_NAMES, _REASON_CHARS = 10, 200


class ServerState(StrEnum):
    """State of a server; but for STALLED it never goes back to one that stands further up."""

    LOADING = "loading"
    """State until the base is loaded and what was registered is known again."""
    NOT_READY = "not_ready"
    """State of one that waits for declared adapters."""
    READY = "ready"
    """State of one that takes traffic. An adapter that is declared later and cannot be loaded does
    not change it: that must not take the server from those who use the others."""
    STALLED = "stalled"
    """State of one whose step hangs. It becomes what it was when the step ends."""
    DRAINING = "draining"
    FAILED = "failed"


class NotReady(StrEnum):
    """Reason why a server is not ready."""

    LOADING_BASE = "loading_base"
    ADAPTER_PENDING = "adapter_pending"
    ADAPTER_FAILED = "adapter_failed"
    MANIFEST_UNREADABLE = "manifest_unreadable"
    """Reason also for a watched directory."""
    STEP_HANGS = "step_hangs"
    DRAINING = "draining"
    ENGINE_FAILED = "engine_failed"


_REASONS = {
    ServerState.LOADING: NotReady.LOADING_BASE,
    ServerState.STALLED: NotReady.STEP_HANGS,
    ServerState.DRAINING: NotReady.DRAINING,
    ServerState.FAILED: NotReady.ENGINE_FAILED,
}


class Awaited(Protocol):
    """The part of DeclaredAdapters that is used here."""

    @property
    def is_awaited(self) -> bool: ...

    def awaited(self) -> list[DeclaredStatus]: ...


class Readiness:
    """Readiness of one server; any thread may ask, and tell what happens.

    `ready_after_s`: seconds from `base_loaded` after which nothing is waited for; 0 is never.
    """

    def __init__(
        self, ready_after_s: float = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ready_after_s, self._clock = ready_after_s, clock
        self._began = self._loaded = clock()
        self._lock = threading.Lock()
        self._state = ServerState.LOADING
        self._stalled = False
        self._declared: Awaited | None = None
        self._on_ready: Callable[[], None] = lambda: None
        self._said: set[tuple[str, str, str]] | None = None
        self._said_at = 0.0

    @property
    def state(self) -> ServerState:
        """State that callers see."""
        hides = self._state in (ServerState.NOT_READY, ServerState.READY)
        return ServerState.STALLED if self._stalled and hides else self._state

    @property
    def is_live(self) -> bool:
        """True unless the engine has failed, or hangs in a step."""
        return not self._stalled and self._state is not ServerState.FAILED

    def waiting_for(self) -> list[DeclaredStatus]:
        """Status of what is awaited; empty unless NOT_READY. May take a while: takes locks."""
        with self._lock:
            return self._waiting_for()

    def reasons(self) -> Counter[NotReady]:
        """Count the reasons why the server is not ready; none is one that is."""
        with self._lock:
            if self.state in _REASONS:
                return Counter([_REASONS[self.state]])
            return Counter(_reason(status) for status in self._waiting_for())

    def base_loaded(self, declared: Awaited, on_ready: Callable[[], None]) -> None:
        """Wait for what is declared from now on. Call it on the event loop.

        `on_ready` is called once, on any thread.
        """
        with self._lock:
            if self._state is not ServerState.LOADING:
                return
            self._state, self._loaded = ServerState.NOT_READY, self._clock()
            self._declared, self._on_ready = declared, on_ready
        loop = asyncio.get_running_loop()
        if not declared.is_awaited:
            self.declared_changed()
            return
        # For a first look that hangs: each look tells how it went, but only at its end.
        loop.call_later(_SAY_AGAIN_S, self.declared_changed)
        if self._ready_after_s:
            loop.call_later(self._ready_after_s, self._wait_no_longer)

    def declared_changed(self) -> None:
        """Turn ready if nothing is awaited any more, else say what is where that has changed."""
        with self._lock:
            if self._state is not ServerState.NOT_READY or self._declared is None:
                return
            if self._declared.is_awaited:
                self._say_what_is_awaited(self._declared)
                return
            self._turn_ready()
        self._on_ready()

    def draining(self) -> None:
        with self._lock:
            if self._state is not ServerState.FAILED:
                self._state = ServerState.DRAINING

    def failed(self) -> None:
        with self._lock:
            self._state = ServerState.FAILED

    def stalled(self, hangs: bool) -> None:
        with self._lock:
            self._stalled = hangs

    def _wait_no_longer(self) -> None:
        with self._lock:
            if self._state is not ServerState.NOT_READY:
                return
            waiting = self._waiting_for()
            log.warning(
                f"ready after {self._ready_after_s:g} s without {_text(waiting)}",
                count=len(waiting),
            )
            self._turn_ready()
        self._on_ready()

    def _turn_ready(self) -> None:
        now, self._state = self._clock(), ServerState.READY
        log.info(
            "ready",
            seconds=round(now - self._began, 3),
            waited_s=round(now - self._loaded, 3),
        )

    def _say_what_is_awaited(self, declared: Awaited) -> None:
        now = self._clock()
        if self._said is not None and now - self._said_at < _SAY_AGAIN_S:
            return
        waiting = declared.awaited()
        # Without the states: a load that is tried again and fails as before is nothing new.
        what = {(status.name, status.source, status.error) for status in waiting}
        if not waiting or what == self._said:
            return
        self._said, self._said_at = what, now
        has_failed = any(status.state is DeclaredState.FAILED for status in waiting)
        log.log(
            logging.WARNING if has_failed else logging.INFO,
            f"not ready: waiting for {_text(waiting)}",
            count=len(waiting),
        )

    def _waiting_for(self) -> list[DeclaredStatus]:
        if self._state is not ServerState.NOT_READY or self._declared is None:
            return []
        return self._declared.awaited()


def _reason(status: DeclaredStatus) -> NotReady:
    if not status.name:
        return NotReady.MANIFEST_UNREADABLE
    failed = status.state is DeclaredState.FAILED
    return NotReady.ADAPTER_FAILED if failed else NotReady.ADAPTER_PENDING


def _text(waiting: Sequence[DeclaredStatus]) -> str:
    """Names with their states and errors; of many the first ones and how many more."""
    told = [_one(status) for status in waiting[:_NAMES]]
    more = len(waiting) - len(told)
    return ", ".join(told) + (f" and {more} more" if more else "")


def _one(status: DeclaredStatus) -> str:
    error = " ".join(status.error.split())[:_REASON_CHARS]
    if not status.name:
        return f"{status.source or 'what is declared'} ({error})"
    return f"{status.name} ({status.state}{': ' if error else ''}{error})"
