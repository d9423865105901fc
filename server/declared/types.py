"""Types of declared adapters: what is wanted, what became of it, and what an engine must do."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from lora_runtime import AdapterInfo, AdapterPolicy, EngineObserver, Registration


class AdapterEngine(Protocol):
    """The part of `lora_runtime.Engine` that is used here."""

    def load_adapter(
        self,
        source: str,
        adapter_id: str | None = None,
        *,
        canary_weight: float = 0,
        policy: AdapterPolicy | None = None,
        allow_unknown_fields: bool = False,
    ) -> AdapterInfo: ...

    def unload_adapter(self, adapter_id: str, timeout_s: float = 0) -> AdapterInfo: ...

    def register(self, registration: Registration) -> object: ...

    def registrations(self) -> list[Registration]: ...

    def add_observer(self, observer: EngineObserver) -> None: ...


class DeclaredState(StrEnum):
    """State of a declared adapter on its way."""

    PENDING = "pending"
    """State of one that is not tried yet, or still being written."""
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    """State of one that is tried again later. An older version may serve meanwhile: then `version`
    is not empty."""
    REMOVING = "removing"
    """State of one that is no longer declared; waits for its requests."""


@dataclass(frozen=True)
class DeclaredStatus:
    """Status of a declared adapter; without a name, of a manifest or directory that is unreadable."""

    name: str
    source: str
    state: DeclaredState
    version: str = ""
    """Version that serves now, also where a call has changed that."""
    error: str = ""
    since: float = 0
    """Time when it came into this state, in seconds since the epoch."""


@dataclass(frozen=True)
class Declared:
    """One adapter as it should be. Two that are equal need no work."""

    name: str
    source: str
    canary_weight: float = 0
    policy: AdapterPolicy | None = None
    allow_unknown_fields: bool = False
    fingerprint: Hashable = None
    """Fingerprint of the files of a local source."""
    unsettled: str = ""
    """Reason why it cannot be loaded yet."""


@dataclass(frozen=True)
class Reading:
    """Result of reading one place.

    When it cannot be read, `adapters` are those of its last good state.
    """

    place: str
    adapters: Mapping[str, Declared] = field(default_factory=dict)
    duplicates: tuple[str, ...] = ()
    problem: str = ""
    """Problem of the place itself."""
    known: bool = True
    """True if it could be read at least once."""
