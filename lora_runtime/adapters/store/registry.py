"""What is known of the adapters, and the bookkeeping that keeps it true."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ...api.adapters import AdapterInfo, AdapterPolicy, RegisteredVersion
from ...config import EngineConfig
from ...errors import UnknownAdapterError
from ..device import AdapterHost
from .aliases import AdapterName
from .tiers import Tiers
from .version import AdapterVersion


class StoreListener(Protocol):
    """What the engine hears of its adapters; called without the store's lock, on any thread."""

    def adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        """A version was read and checked, and may be in a slot."""

    def adapter_failed(self, versions: Sequence[AdapterVersion], error: Exception) -> None:
        """Versions that requests wait for cannot be had, several not together."""

    def adapter_evicted(self, version: AdapterVersion, info: AdapterInfo, reason: str) -> None: ...

    def adapter_forgotten(self, version: AdapterVersion) -> None:
        """No id knows it and no request uses it any more."""

    def registrations_changed(self) -> None: ...


class StoreState:
    """Ids, versions and tiers under one lock, `changed`; every method but `locked` and `kept` wants it held."""

    def __init__(self, base: AdapterHost, config: EngineConfig, listener: StoreListener) -> None:
        self.listener = listener
        self.changed = threading.Condition(threading.RLock())
        self.names: dict[str, AdapterName] = {}
        self.versions: dict[str, AdapterVersion] = {}
        self.default_policy = AdapterPolicy()
        self.tiers = Tiers(
            base, slots=config.max_adapters, device_bytes=config.adapter_device_bytes,
            host_bytes=config.adapter_host_bytes, on_evicted=self._on_evicted)
        self._events: list[Callable[[], None]] = []
        self._depth = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The lock; what was emitted under it is delivered after it, by whoever took it first."""
        events: list[Callable[[], None]] = []
        with self.changed:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    events, self._events = self._events, []
        for event in events:
            event()

    def emit(self, event: Callable[[], None]) -> None:
        self._events.append(event)

    def name(self, adapter_id: str, even_unloading: bool = False) -> AdapterName:
        name = self.names.get(adapter_id)
        if name is None or (name.unloading and not even_unloading):
            raise UnknownAdapterError(adapter_id)
        return name

    def known(self, registered: RegisteredVersion, adapter_id: str) -> AdapterVersion:
        version = self.versions.setdefault(registered.version, AdapterVersion(registered, adapter_id))
        version.add_place(registered)
        return version

    @contextmanager
    def kept(self, version: AdapterVersion) -> Iterator[None]:
        """While it is brought in, it is not forgotten and its staged copy stays."""
        with self.changed:
            version.loading += 1
        try:
            yield
        finally:
            with self.locked():
                version.loading -= 1
                self.settle([version], "replaced")

    def count(self, name: AdapterName, change: int) -> None:
        """Add or take away what an id means for its versions."""
        for version in name.versions:
            version.refs += change
        for version in name.serving:
            version.serving += change
            version.pins += change * (name.policy is not None and name.policy.pinned)
            self.tiers.pin(version, version.pins > 0)

    def settle(self, versions: Sequence[AdapterVersion], reason: str) -> None:
        """Free what has become useless: slots of versions that serve no id, and all of those that no id knows."""
        for version in versions:
            if version.running == 0 and version.serving == 0 and version.weights is not None:
                self.tiers.demote(version, reason)
            self.forget_if_unused(version)
        self.tiers.trim()

    def forget_if_unused(self, version: AdapterVersion) -> None:
        if version.refs == version.leases == version.loading == 0 and self.versions.get(version.version) is version:
            self.tiers.drop(version, "unloaded")
            del self.versions[version.version]
            self.emit(lambda: self.listener.adapter_forgotten(version))

    def info_of(self, version: AdapterVersion) -> AdapterInfo:
        return AdapterName(version.adapter_id, version).info(self.default_policy)

    def _on_evicted(self, version: AdapterVersion, reason: str) -> None:
        info = self.info_of(version)
        self.emit(lambda: self.listener.adapter_evicted(version, info, reason))

    def directories(self) -> set[Path]:
        """Where known versions were read from."""
        with self.changed:
            return {Path(place.directory) for v in self.versions.values() for place in v.places}

