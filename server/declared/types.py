"""What is declared, what has become of it, and what this package needs of an engine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from lora_runtime import AdapterInfo, AdapterPolicy, EngineObserver, Registration


class AdapterEngine(Protocol):
    """The part of `lora_runtime.Engine` that is used here."""

    def load_adapter(
        self, source: str, adapter_id: str | None = None, *, canary_weight: float = 0,
        policy: AdapterPolicy | None = None,
    ) -> AdapterInfo: ...

    def unload_adapter(self, adapter_id: str, timeout_s: float = 0) -> AdapterInfo: ...

    def register(self, registration: Registration) -> object: ...

    def registrations(self) -> list[Registration]: ...

    def add_observer(self, observer: EngineObserver) -> None: ...


class DeclaredState(StrEnum):
    """Where a declared adapter is on its way."""

    PENDING = "pending"
    """Not tried yet, or still being written."""
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    """Tried again later. An older version may serve meanwhile: then `version` is not empty."""
    REMOVING = "removing"
    """No longer declared; waits for its requests."""


@dataclass(frozen=True)
class DeclaredStatus:
    """One declared adapter; with an empty name, a manifest or directory that cannot be read."""

    name: str
    source: str
    state: DeclaredState
    version: str = ""
    """What serves now, also where a call has changed that."""
    error: str = ""
    since: float = 0
    """When it came into this state, in seconds since the epoch."""


@dataclass(frozen=True)
class Declared:
    """One adapter as it should be. Two that are equal need no work."""

    name: str
    source: str
    canary_weight: float = 0
    policy: AdapterPolicy | None = None
    fingerprint: Hashable = None
    """Of the files of a local source."""
    unsettled: str = ""
    """Why it cannot be loaded yet."""


@dataclass(frozen=True)
class Reading:
    """What one place declares. When it cannot be read, `adapters` are those of its last good state."""

    place: str
    adapters: Mapping[str, Declared] = field(default_factory=dict)
    duplicates: tuple[str, ...] = ()
    problem: str = ""
    """What is wrong with the place itself."""
    known: bool = True
    """It could be read at least once."""
