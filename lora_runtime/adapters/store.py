"""The adapters' life: ids, versions, leases, and the way from a source through host memory into a slot and back."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from ..base import BaseModel
from ..config import EngineConfig
from ..errors import (
    AdapterCapacityError,
    AdapterInUseError,
    AdapterUnavailableError,
    LoramuxError,
    UnknownAdapterError,
)
from ..types import AdapterInfo, AdapterPolicy, RegisteredVersion, Registration, WeightedAdapter
from .names import AdapterName
from .reading import Reader
from .tiers import Tiers
from .version import AdapterVersion

log = logging.getLogger(__name__)


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


class AdapterStore:
    """Thread-safe. Files are read and staged on the caller's thread (`load`, `rollback`) or on a pool (on demand)."""

    def __init__(self, base: BaseModel, config: EngineConfig, listener: StoreListener) -> None:
        self._config, self._listener = config, listener
        self._reader = Reader(base, config, self._directories)
        self._changed = threading.Condition(threading.RLock())
        self._names: dict[str, AdapterName] = {}
        self._versions: dict[str, AdapterVersion] = {}
        self._events: list[Callable[[], None]] = []
        self._depth = 0
        self._loading = 0
        self._random = random.Random()
        self._default_policy = AdapterPolicy()
        self._base_policy: AdapterPolicy | None = None
        self._tiers = Tiers(
            base, slots=config.max_adapters, device_bytes=config.adapter_device_bytes,
            host_bytes=config.adapter_host_bytes, on_evicted=self._on_evicted)

    def close(self) -> None:
        """Start no more loads; those that run end unheard."""
        self._reader.close()

    # --- ids ------------------------------------------------------------------------------------

    def load(
        self, source: str, adapter_id: str, canary_weight: float = 0, policy: AdapterPolicy | None = None,
        roots: Sequence[Path] = (),
    ) -> AdapterInfo:
        """Read, check, stage and register; into a slot at once where there is room."""
        started = time.monotonic()
        read = self._reader.read(source, roots)
        known = self._versions.get(read.registered.version)
        staged = None if known is not None and known.staged is not None else read.stage()
        with self._locked():
            version = self._known(read.registered, adapter_id)
            version.details, version.error = read.details, ""
            if version.staged is None:
                # Dropped by another thread since `known` was looked at: rare, and then simply done here.
                self._tiers.stage(version, staged or read.stage())
                version.loaded_at = time.time()
            with self._kept(version):
                if not self._tiers.fits([version]):
                    raise AdapterCapacityError(
                        f"adapter {adapter_id!r} does not fit into the adapter slots beside the pinned adapters")
                version.adapter_id, version.registered = adapter_id, read.registered
                name = self._point(adapter_id, version, canary_weight, policy)
                if version.weights is None:
                    self._tiers.place(version)
            info = self._info(name)
            self._emit(lambda: self._listener.adapter_loaded(info, time.monotonic() - started))
            return info

    def register(self, registration: Registration) -> None:
        """Know an id again without reading anything; its first request brings it in."""
        with self._locked():
            if registration.adapter_id in self._names:
                return
            versions = [self._known(v, registration.adapter_id) for v in registration.versions]
            name = AdapterName(registration.adapter_id, versions[0], registration.policy)
            name.older = versions[1:][: self._config.adapter_versions_kept]
            if registration.canary is not None:
                name.canary = self._known(registration.canary, registration.adapter_id)
                name.canary_weight = registration.canary_weight
            self._names[registration.adapter_id] = name
            self._count(name, +1)
            self._emit(self._listener.registrations_changed)

    def unload(self, adapter_id: str, timeout_s: float) -> AdapterInfo:
        """Take the id away and free what no other id knows, waiting up to `timeout_s` seconds for its leases.

        New requests get UnknownAdapterError meanwhile. Raises AdapterInUseError, with the id serving again, when
        leases remain.
        """
        with self._changed:  # not _locked: others' events go out while this waits
            name = self._name(adapter_id)
            name.unloading = True
            try:
                self._changed.wait_for(lambda: name.leases == 0 or not name.unloading, timeout_s)
            except BaseException:
                name.unloading = False
                raise
        with self._locked():
            if not name.unloading:
                raise AdapterInUseError(f"adapter {adapter_id!r} was loaded anew while it was being unloaded")
            name.unloading = False
            if name.leases:
                raise AdapterInUseError(f"adapter {adapter_id!r} is in use by {name.leases} requests")
            info = self._info(name)
            del self._names[adapter_id]
            self._count(name, -1)
            self._settle(name.versions, "unloaded")
            self._emit(self._listener.registrations_changed)
            return info

    def rollback(self, adapter_id: str, version: str) -> AdapterInfo:
        """Let an older version serve again; it is brought in first. Raises AdapterUnavailableError."""
        with ExitStack() as kept:
            with self._changed:
                target = self._name(adapter_id).target_of_rollback(version)
                kept.enter_context(self._kept(target))
            self._bring_in(target)
            with self._locked():
                name = self._name(adapter_id)
                if target not in name.older:
                    raise AdapterUnavailableError(f"adapter {adapter_id!r} was changed meanwhile", adapter_id)
                self._publish(name, target, 0, None)
                if target.weights is None:
                    self._tiers.place(target)
                return self._info(name)

    def set_canary(self, adapter_id: str, weight: float) -> AdapterInfo:
        """Change the canary's share: 0 drops it, 1 makes it the version that serves."""
        with self._locked():
            name = self._name(adapter_id)
            if name.canary is None:
                raise AdapterUnavailableError(f"adapter {adapter_id!r} has no canary", adapter_id)
            self._publish(name, name.canary if weight else name.current, weight % 1, None)
            return self._info(name)

    def set_policy(self, adapter_id: str, policy: AdapterPolicy) -> AdapterInfo | None:
        """"*": of all without their own; "": of the base. Those two can pin nothing and give None.

        Raises UnknownAdapterError, and AdapterCapacityError when the slots would not hold what is pinned.
        """
        if adapter_id in ("", "*"):
            if policy.pinned:
                raise AdapterCapacityError("only single adapters can be pinned")
            self._base_policy, self._default_policy = (
                (policy, self._default_policy) if adapter_id == "" else (self._base_policy, policy))
            return None
        with self._locked():
            name = self._name(adapter_id)
            if policy.pinned and not self._tiers.fits(name.serving):
                raise AdapterCapacityError(f"adapter {adapter_id!r} cannot be pinned: the slots would not hold it")
            self._publish(name, name.current, 0, policy, keep_canary=True)
            for version in name.serving if policy.pinned else ():
                if version.staged is None:
                    self._start_loading(version)
                elif version.weights is None:
                    self._tiers.place(version)
            return self._info(name)

    def policy(self, adapter_id: str) -> AdapterPolicy:
        """What applies to an id, or to the base (""); takes no lock."""
        name = self._names.get(adapter_id)
        own = self._base_policy if adapter_id == "" else name.policy if name is not None else None
        return own or self._default_policy

    def get(self, adapter_id: str) -> AdapterInfo:
        with self._changed:
            return self._info(self._name(adapter_id, even_unloading=True))

    def infos(self) -> list[AdapterInfo]:
        """Sorted by id."""
        with self._changed:
            return [self._info(self._names[name]) for name in sorted(self._names)]

    def registrations(self) -> list[Registration]:
        with self._changed:
            return [self._names[name].registration() for name in sorted(self._names)]

    # --- leases ---------------------------------------------------------------------------------

    def prepare(self, uses: Sequence[WeightedAdapter]) -> Future[None]:
        """Done when every version that `uses` may get has been read once, so that a prompt can be encoded for it.

        Raises UnknownAdapterError at once; the future fails with AdapterUnavailableError.
        """
        with self._changed:
            unread = [v for use in uses for v in self._name(use.adapter_id).serving if v.details is None]
            if unread:
                kept = ExitStack()
                for version in unread:
                    kept.enter_context(self._kept(version))
                return self._reader.submit(lambda: self._bring_all_in(unread, kept))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def lease(self, uses: Sequence[WeightedAdapter]) -> list[AdapterVersion]:
        """A version for each, kept alive until `release`.

        Raises UnknownAdapterError, AdapterCapacityError when the slots could never hold all at once.
        """
        with self._changed:
            names = [self._name(use.adapter_id) for use in uses]
            versions = [name.pick(self._random.random()) for name in names]
            if len(set(versions)) < len(versions):
                raise AdapterCapacityError("two of the adapters are the same version: name it once")
            if not self._tiers.fits(versions):
                raise AdapterCapacityError("the adapter slots cannot hold these adapters at once")
            for name, version in zip(names, versions, strict=True):
                name.leases += 1
                version.leases += 1
            return versions

    def release(self, uses: Sequence[WeightedAdapter], versions: Sequence[AdapterVersion]) -> None:
        with self._locked():
            for use, version in zip(uses, versions, strict=True):
                name = self._names[use.adapter_id]  # it cannot go while it is leased
                name.leases -= 1
                version.leases -= 1
                assert name.leases >= 0 <= version.leases, "lease released twice"
                self._settle([version], "replaced")
            self._changed.notify_all()

    # --- slots, for the engine thread -----------------------------------------------------------

    def hold(self, versions: Sequence[AdapterVersion]) -> bool:
        """Keep all of them in their slots for one more sequence; False if one is not there."""
        with self._changed:
            if any(v.weights is None for v in versions):
                return False
            for version in versions:
                version.holds += 1
                self._tiers.touch(version)
            return True

    def drop(self, versions: Sequence[AdapterVersion]) -> None:
        """The sequence runs no more."""
        with self._locked():
            for version in versions:
                version.holds -= 1
                assert version.holds >= 0, "slot given back twice"
            self._settle(versions, "replaced")

    def want(self, groups: Sequence[Sequence[AdapterVersion]]) -> set[AdapterVersion]:
        """Bring in what waiting requests need, most urgent first, each request's versions together; never waits.

        Returns the versions that must take no new sequences, because the most urgent one that has no room is to get
        their slot.
        """
        with self._locked():
            groups = self._refuse_unfit(groups)
            versions = [v for group in groups for v in group]
            self._tiers.want(versions)
            blocked: AdapterVersion | None = None
            for version in self._tiers.next_in(versions):
                has_room = self._tiers.has_room(version)
                if not has_room:
                    blocked = blocked or version
                if version.loading:
                    continue
                if version.staged is not None:
                    if has_room:
                        self._tiers.place(version)
                elif (has_room or version is blocked or self._tiers.keeps(version)) and (
                        self._loading < self._config.adapter_load_threads):
                    self._start_loading(version)
            self._tiers.reserve(blocked)
            return self._tiers.in_the_way(blocked) if blocked is not None and blocked.staged is not None else set()

    def _refuse_unfit(self, groups: Sequence[Sequence[AdapterVersion]]) -> list[Sequence[AdapterVersion]]:
        """Fail those that what is pinned leaves no room for: they would wait for ever, and all behind them."""
        fitting = []
        for group in groups:
            if self._tiers.fits(group):
                fitting.append(group)
            else:
                self._fail(group, AdapterCapacityError("pinned adapters leave no room for the request's adapters"))
        return fitting

    @property
    def loading(self) -> int:
        """Versions that are being brought in for waiting requests."""
        return self._loading

    def totals(self) -> dict[str, int]:
        """The adapters' part of EngineStats."""
        with self._changed:
            return {
                "adapters": len(self._tiers.resident), "adapter_bytes": self._tiers.device_bytes,
                "leases": sum(v.leases for v in self._versions.values()), "registered_adapters": len(self._names),
                "host_adapters": len(self._tiers.host_only), "host_adapter_bytes": self._tiers.host_bytes,
                "loading_adapters": self._loading,
            }

    # --- bringing in ----------------------------------------------------------------------------

    def _start_loading(self, version: AdapterVersion) -> None:
        self._loading += 1
        kept = self._kept(version)
        kept.__enter__()
        self._reader.submit(lambda: self._load_on_demand(version, kept))

    def _load_on_demand(self, version: AdapterVersion, kept: AbstractContextManager[None]) -> None:
        try:
            self._bring_in(version)
        except Exception as error:
            with self._locked():
                version.error = str(error)
                self._fail([version], error)
        finally:
            with self._locked():
                self._loading -= 1
            kept.__exit__(None, None, None)

    @contextmanager
    def _kept(self, version: AdapterVersion) -> Iterator[None]:
        """While it is brought in, it is not forgotten and its staged copy stays."""
        with self._changed:
            version.leases += 1
            version.loading += 1
        try:
            yield
        finally:
            with self._locked():
                version.leases -= 1
                version.loading -= 1
                self._settle([version], "replaced")

    def _bring_all_in(self, versions: Sequence[AdapterVersion], kept: ExitStack) -> None:
        with kept:
            for version in versions:
                self._bring_in(version)

    def _bring_in(self, version: AdapterVersion) -> None:
        """Read and stage a known version again. Raises AdapterUnavailableError."""
        if version.staged is not None and version.details is not None:
            return
        started = time.monotonic()
        try:
            read = self._reader.read_again(version.registered)
            staged = read.stage()
        except LoramuxError as error:
            name = version.adapter_id
            raise AdapterUnavailableError(f"adapter {name!r} cannot be brought in: {error}", name) from error
        with self._locked():
            version.details, version.registered, version.error = read.details, read.registered, ""
            if version.staged is None:
                self._tiers.stage(version, staged)
                version.loaded_at = time.time()
            if version.serving and version.weights is None:
                self._tiers.place(version)
            info, seconds = self._info_of(version), time.monotonic() - started
            self._emit(lambda: self._listener.adapter_loaded(info, seconds))

    def _fail(self, versions: Sequence[AdapterVersion], error: Exception) -> None:
        self._emit(lambda: self._listener.adapter_failed(versions, error))

    # --- bookkeeping, under the lock ------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock; what was emitted under it is delivered after it, by whoever took it first."""
        events: list[Callable[[], None]] = []
        with self._changed:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    events, self._events = self._events, []
        for event in events:
            event()

    def _emit(self, event: Callable[[], None]) -> None:
        self._events.append(event)

    def _name(self, adapter_id: str, even_unloading: bool = False) -> AdapterName:
        name = self._names.get(adapter_id)
        if name is None or (name.unloading and not even_unloading):
            raise UnknownAdapterError(adapter_id)
        return name

    def _known(self, registered: RegisteredVersion, adapter_id: str) -> AdapterVersion:
        return self._versions.setdefault(registered.version, AdapterVersion(registered, adapter_id))

    def _point(
        self, adapter_id: str, version: AdapterVersion, canary_weight: float, policy: AdapterPolicy | None
    ) -> AdapterName:
        """Let an id, new or not, stand for a version."""
        name = self._names.get(adapter_id)
        if name is not None:
            self._publish(name, version, canary_weight, policy)
            return name
        name = self._names[adapter_id] = AdapterName(adapter_id, version, policy)
        self._count(name, +1)
        self._emit(self._listener.registrations_changed)
        return name

    def _publish(
        self, name: AdapterName, version: AdapterVersion, canary_weight: float, policy: AdapterPolicy | None,
        keep_canary: bool = False,
    ) -> None:
        """Change what an id stands for."""
        before = name.versions
        self._count(name, -1)
        name.unloading = False  # someone wants it after all
        if not keep_canary:
            name.publish(version, canary_weight, self._config.adapter_versions_kept)
        name.policy = policy or name.policy
        self._count(name, +1)
        self._settle(before, "replaced")
        self._changed.notify_all()
        self._emit(self._listener.registrations_changed)

    def _count(self, name: AdapterName, change: int) -> None:
        """Add or take away what an id means for its versions."""
        for version in name.versions:
            version.refs += change
        for version in name.serving:
            version.serving += change
            version.pins += change * (name.policy is not None and name.policy.pinned)
            self._tiers.pin(version, version.pins > 0)

    def _settle(self, versions: Sequence[AdapterVersion], reason: str) -> None:
        """Free what has become useless: slots of versions that serve no id, and all of those that no id knows."""
        for version in versions:
            if version.holds == 0 and version.serving == 0 and version.weights is not None:
                self._tiers.demote(version, reason)
            self._forget_if_unused(version)
        self._tiers.trim()

    def _forget_if_unused(self, version: AdapterVersion) -> None:
        if version.refs == version.leases == version.holds == 0 and self._versions.get(version.version) is version:
            self._tiers.drop(version, "unloaded")
            del self._versions[version.version]
            self._emit(lambda: self._listener.adapter_forgotten(version))

    def _info(self, name: AdapterName) -> AdapterInfo:
        return name.info(self._default_policy)

    def _directories(self) -> set[Path]:
        """Where known versions were read from."""
        with self._changed:
            return {Path(v.registered.directory) for v in self._versions.values()}

    def _info_of(self, version: AdapterVersion) -> AdapterInfo:
        return AdapterName(version.adapter_id, version).info(self._default_policy)

    def _on_evicted(self, version: AdapterVersion, reason: str) -> None:
        info = self._info_of(version)
        self._emit(lambda: self._listener.adapter_evicted(version, info, reason))
