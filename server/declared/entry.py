"""One declared adapter's way: what is wanted, what was done, and what is to be done next."""

from __future__ import annotations

import time
from enum import Enum, auto
from pathlib import Path

from lora_runtime import AdapterPolicy, redact

from .files import Snapshot, snapshot
from .types import Declared, DeclaredState, DeclaredStatus

_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 300.0
_PATIENCE_S = 60.0
"""Seconds for which an adapter that is still being written is no failure."""


_News = tuple[DeclaredState, str, str, str]


class Action(Enum):
    """Action that an entry needs now."""

    LOAD = auto()
    UNLOAD = auto()
    FORGET = auto()


class Entry:
    """Entry of one adapter.

    Not thread-safe: the reconciler's lock guards it. Times are the reconciler's clock, in seconds.
    """

    def __init__(self, name: str, source: str = "") -> None:
        self.name, self.source = name, source
        self.wanted: Declared | None = None
        self.conflict = ""
        """Reason why it is not clear what is wanted."""
        self.owned = False
        """True if the engine has the name by declaration: only then may it be taken away."""
        self.known = False
        """True if this process saw it declared, or read every place without it: `wanted` is
        sure."""
        self.has_policy = False
        """True if the engine's policy for it was declared."""
        self.loaded: Declared | None = None
        self.busy = False
        self.version = ""
        """Version loaded last, here or by an earlier process; "" where the engine has none."""
        self.error = ""
        self.served_before = False
        """True if an earlier process of this server had it by declaration."""
        self.state, self.since = DeclaredState.PENDING, time.time()
        self._was_tried = False
        """True once it could not be loaded; see `is_awaited`."""
        self._seen: _News | None = None
        self._said: _News | None = None
        self._tried: Declared | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._unsettled_at: float | None = None

    def status(self, version: str) -> DeclaredStatus:
        """Status of the entry.

        `version`: what the engine serves now, which calls may have changed.
        """
        return DeclaredStatus(
            self.name, redact(self.source), self.state, version, self.error, self.since
        )

    def want(self, declared: Declared) -> None:
        self.conflict, self.wanted = "", declared
        if self.loaded is None and self.source != declared.source:
            self.version = ""  # an earlier process's: says nothing of another source

    @property
    def serves(self) -> bool:
        """True if a version serves, or it is no longer declared: then nothing is missing."""
        return bool(self.version) or (self.wanted is None and not self.conflict)

    def is_awaited(self, again: bool) -> bool:
        """True if the server is not ready because of it.

        `again`: an earlier process of this server was ready. Then only what that process served is
        awaited, and once it was tried no longer: what was broken already, or broke since, must not
        take the others from their users.
        """
        return not self.serves and (not again or (self.served_before and not self._was_tried))

    def news(self) -> DeclaredStatus | None:
        """Status if it has changed since this was asked last.

        A load that fails again for the same reason is none: only that it is tried is told.
        """
        now = (self.state, self.error, self.source, self.version)
        if now == self._seen or (self.wanted is None and not self.conflict and not self.owned):
            return None
        self._seen = now
        if self.state not in (DeclaredState.LOADING, DeclaredState.REMOVING):
            if now == self._said:
                return None
            self._said = now
        return self.status(self.version)

    def next(self, now: float) -> Action | None:
        """Find what to do, if anything; sets the state where there is nothing to do."""
        if self.busy or not self.known:
            return None
        if self.conflict:
            self._set(DeclaredState.FAILED, self.conflict)
            return None
        if self.wanted is None:
            if not self.owned:
                return Action.FORGET
            # The wait after a load that failed is none for the removal.
            return Action.UNLOAD if now >= self._retry_at or self._tried is not None else None
        self.source = self.wanted.source
        if self.wanted.unsettled:
            self._wait(self.wanted.unsettled, now)
            return None
        self._unsettled_at = None
        if self.wanted == self.loaded:
            self._set(DeclaredState.READY)
            return None
        # Something else than what failed is tried at once.
        return Action.LOAD if self.wanted != self._tried or now >= self._retry_at else None

    def policy(self, wanted: Declared) -> AdapterPolicy | None:
        """Policy to set; None leaves the engine's as it is: a policy that is no longer declared
        must not stay."""
        return AdapterPolicy() if wanted.policy is None and self.has_policy else wanted.policy

    def begin(self, action: Action) -> None:
        self.busy = True
        if self.wanted != self._tried:
            self._failures = 0
        self._tried = self.wanted
        self._set(
            DeclaredState.LOADING if action is Action.LOAD else DeclaredState.REMOVING, self.error
        )

    def loading_done(self, done: Declared, version: str) -> None:
        self.busy, self.owned, self.loaded, self.version = False, True, done, version
        self.has_policy = done.policy is not None
        self._failures, self._retry_at = 0, 0
        self._set(DeclaredState.READY)

    def loading_failed(self, error: str, now: float, files_changed: bool) -> None:
        self.busy = False
        if files_changed:
            self._set(DeclaredState.PENDING, "its files are still changing")
        else:
            self._back_off(now)
            self._set(DeclaredState.FAILED, error)

    def removing_done(self) -> None:
        """Note that the name is free; `next` forgets the entry, or loads what is declared by now."""
        self.forget_load()
        self.busy = self.owned = False

    def removing_failed(self, error: str, now: float, in_use: bool) -> None:
        self.busy = False
        if not in_use:
            self._back_off(now)
        self._set(DeclaredState.REMOVING, error)

    def forget_load(self) -> None:
        """Forget the load: the engine no longer has it."""
        self.loaded = self._tried = None
        self.version = ""
        self._set(DeclaredState.PENDING)

    def _wait(self, reason: str, now: float) -> None:
        # At one look it may be a copy that is just ending.
        self._was_tried = self._was_tried or self._unsettled_at is not None
        self._unsettled_at = now if self._unsettled_at is None else self._unsettled_at
        patient = now - self._unsettled_at < _PATIENCE_S
        self._set(DeclaredState.PENDING if patient else DeclaredState.FAILED, reason)

    def _back_off(self, now: float) -> None:
        self._retry_at = now + min(_FIRST_RETRY_S * 2**self._failures, _LAST_RETRY_S)
        self._failures = min(self._failures + 1, 16)

    def _set(self, state: DeclaredState, error: str = "") -> None:
        if state != self.state:
            self.state, self.since = state, time.time()
        self.error = error
        self._was_tried = self._was_tried or state is DeclaredState.FAILED


def files_changed(tried: Declared) -> bool:
    """True if a local source has changed since the load began: half of a copy, no broken adapter."""
    if not isinstance(tried.fingerprint, Snapshot):
        return False
    try:
        return snapshot(Path(tried.source)) != tried.fingerprint
    except OSError:
        return True
