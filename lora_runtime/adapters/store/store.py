"""The adapters' life: ids, versions, leases, and the way from a source through host memory into a slot and back."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ...api.adapters import AdapterInfo, AdapterPolicy, Registration
from ...api.requests import WeightedAdapter
from ...config import EngineConfig
from ...errors import AdapterCapacityError, AdapterInUseError, AdapterUnavailableError
from ..device import AdapterHost
from .aliases import AdapterName
from .reading import Reader
from .registry import StoreListener, StoreState
from .slots import Slots
from .version import AdapterVersion


class AdapterStore:
    """Thread-safe. Files are read and staged on the caller's thread (`load`, `rollback`) or on a pool (on demand)."""

    def __init__(self, base: AdapterHost, config: EngineConfig, listener: StoreListener) -> None:
        self._versions_kept = config.adapter_versions_kept
        self._state = StoreState(base, config, listener)
        self._reader = Reader(base, config, self._state.directories)
        self.slots = Slots(self._state, self._reader, config.adapter_load_threads)
        self._random = random.Random()
        self._base_policy: AdapterPolicy | None = None

    def close(self) -> None:
        """Start no more loads, those that run end unheard; and let go of the slots."""
        self._reader.threads.close()
        with self._state.changed:
            self._state.tiers.close()

    # --- ids ------------------------------------------------------------------------------------

    def load(
        self, source: str, adapter_id: str, canary_weight: float = 0, policy: AdapterPolicy | None = None,
        roots: Sequence[Path] = (),
    ) -> AdapterInfo:
        """Read, check, stage and register; into a slot at once where there is room."""
        started = time.monotonic()
        read = self._reader.read(source, roots)
        known = self._state.versions.get(read.registered.version)
        staged = None if known is not None and known.staged is not None else read.stage()
        with self._state.locked():
            version = self._state.known(read.registered, adapter_id)
            version.details, version.error = read.details, ""
            if version.staged is None:
                # Dropped by another thread since `known` was looked at: rare, and then simply done here.
                self._state.tiers.stage(version, staged or read.stage())
                version.loaded_at = time.time()
            with self._state.kept(version):
                if not self._state.tiers.fits([version], leaving=self._leaving(adapter_id, canary_weight)):
                    raise AdapterCapacityError(
                        f"adapter {adapter_id!r} does not fit into the adapter slots beside the pinned adapters")
                version.adapter_id = adapter_id
                name = self._point(adapter_id, version, canary_weight, policy)
                name.came_from(version, read.registered)
                if version.weights is None:
                    self._state.tiers.place(version)
            info = self._info(name)
            self._state.emit(lambda: self._state.listener.adapter_loaded(info, time.monotonic() - started))
            return info

    def register(self, registration: Registration) -> None:
        """Know an id again without reading anything; its first request brings it in."""
        with self._state.locked():
            if registration.adapter_id in self._state.names:
                return
            versions = [self._state.known(v, registration.adapter_id) for v in registration.versions]
            name = AdapterName(registration.adapter_id, versions[0], registration.policy)
            name.older = versions[1:][: self._versions_kept]
            if registration.canary is not None:
                name.canary = self._state.known(registration.canary, registration.adapter_id)
                name.canary_weight = registration.canary_weight
                name.came_from(name.canary, registration.canary)
            for version, place in zip(versions, registration.versions, strict=True):
                name.came_from(version, place)
            self._state.names[registration.adapter_id] = name
            self._state.count(name, +1)
            self._state.emit(self._state.listener.registrations_changed)

    def unload(self, adapter_id: str, timeout_s: float) -> AdapterInfo:
        """Take the id away and free what no other id knows, waiting up to `timeout_s` seconds for its leases.

        New requests get UnknownAdapterError meanwhile. Raises AdapterInUseError, with the id serving again, when
        leases remain.
        """
        with self._state.changed:  # not `locked`: others' events go out while this waits
            name = self._state.name(adapter_id)
            name.unloading = True
            try:
                self._state.changed.wait_for(lambda: name.leases == 0 or not name.unloading, timeout_s)
            except BaseException:
                name.unloading = False
                raise
        with self._state.locked():
            if not name.unloading:
                raise AdapterInUseError(f"adapter {adapter_id!r} was loaded anew while it was being unloaded")
            name.unloading = False
            if name.leases:
                raise AdapterInUseError(f"adapter {adapter_id!r} is in use by {name.leases} requests")
            info = self._info(name)
            del self._state.names[adapter_id]
            self._state.count(name, -1)
            self._state.settle(name.versions, "unloaded")
            self._state.emit(self._state.listener.registrations_changed)
            return info

    def rollback(self, adapter_id: str, version: str) -> AdapterInfo:
        """Let an older version serve again; it is brought in first. Raises AdapterUnavailableError."""
        with ExitStack() as kept:
            with self._state.changed:
                target = self._state.name(adapter_id).target_of_rollback(version)
                kept.enter_context(self._state.kept(target))
            try:
                self.slots.bring_in(target)
            except AdapterUnavailableError as error:
                raise error.of(adapter_id) from error
            with self._state.locked():
                name = self._state.name(adapter_id)
                if target not in name.older:
                    raise AdapterUnavailableError(f"adapter {adapter_id!r} was changed meanwhile", adapter_id)
                self._publish(name, target, 0, None)
                if target.weights is None:
                    self._state.tiers.place(target)
                return self._info(name)

    def set_canary(self, adapter_id: str, weight: float) -> AdapterInfo:
        """Change the canary's share: 0 drops it, 1 makes it the version that serves."""
        with self._state.locked():
            name = self._state.name(adapter_id)
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
            self._base_policy, self._state.default_policy = (
                (policy, self._state.default_policy) if adapter_id == "" else (self._base_policy, policy))
            return None
        with self._state.locked():
            name = self._state.name(adapter_id)
            if policy.pinned and not self._state.tiers.fits(name.serving):
                raise AdapterCapacityError(f"adapter {adapter_id!r} cannot be pinned: the slots would not hold it")
            self._publish(name, name.current, 0, policy, keep_canary=True)
            for version in name.serving if policy.pinned else ():
                if version.staged is None:
                    self.slots.read_of(version)
                elif version.weights is None:
                    self._state.tiers.place(version)
            return self._info(name)

    def policy(self, adapter_id: str) -> AdapterPolicy:
        """What applies to an id, or to the base (""); takes no lock."""
        name = self._state.names.get(adapter_id)
        own = self._base_policy if adapter_id == "" else name.policy if name is not None else None
        return own or self._state.default_policy

    def get(self, adapter_id: str) -> AdapterInfo:
        with self._state.changed:
            return self._info(self._state.name(adapter_id, even_unloading=True))

    def infos(self) -> list[AdapterInfo]:
        """Sorted by id."""
        with self._state.changed:
            return [self._info(self._state.names[name]) for name in sorted(self._state.names)]

    def registrations(self) -> list[Registration]:
        with self._state.changed:
            return [self._state.names[name].registration() for name in sorted(self._state.names)]

    # --- leases ---------------------------------------------------------------------------------

    def lease(self, uses: Sequence[WeightedAdapter]) -> list[AdapterVersion]:
        """A version for each, kept alive until `release`.

        Raises UnknownAdapterError, AdapterCapacityError when the slots could never hold all at once,
        AdapterUnavailableError when one was not read since it was registered (see Slots.prepare).
        """
        with self._state.changed:
            names = [self._state.name(use.adapter_id) for use in uses]
            versions = [name.pick(self._random.random()) for name in names]
            if any(v.details is None for v in versions):
                raise AdapterUnavailableError("one of the adapters was registered anew meanwhile; try again")
            if len(set(versions)) < len(versions):
                raise AdapterCapacityError("two of the adapters are the same version: name it once")
            if not self._state.tiers.fits(versions):
                raise AdapterCapacityError("the adapter slots cannot hold these adapters at once")
            for name, version in zip(names, versions, strict=True):
                name.leases += 1
                version.leases += 1
            return versions

    def release(self, uses: Sequence[WeightedAdapter], versions: Sequence[AdapterVersion]) -> None:
        with self._state.locked():
            for use, version in zip(uses, versions, strict=True):
                name = self._state.names[use.adapter_id]  # it cannot go while it is leased
                name.leases -= 1
                version.leases -= 1
                assert name.leases >= 0 <= version.leases, "lease released twice"
                self._state.settle([version], "replaced")
            self._state.changed.notify_all()

    def totals(self) -> dict[str, int]:
        """The adapters' part of EngineStats."""
        tiers = self._state.tiers
        with self._state.changed:
            return {
                "adapters": len(tiers.resident), "adapter_bytes": tiers.device_bytes,
                "leases": sum(n.leases for n in self._state.names.values()),
                "registered_adapters": len(self._state.names), "host_adapters": len(tiers.host_only),
                "host_adapter_bytes": tiers.host_bytes, "loading_adapters": self.slots.num_loading,
            }

    # --- bookkeeping, under the lock ------------------------------------------------------------

    def _leaving(self, adapter_id: str, canary_weight: float) -> list[AdapterVersion]:
        """What a new version of the id takes the place of, as far as no other id pins it."""
        name = self._state.names.get(adapter_id)
        return [] if name is None or canary_weight else [v for v in name.serving if v.pins <= 1]

    def _point(
        self, adapter_id: str, version: AdapterVersion, canary_weight: float, policy: AdapterPolicy | None
    ) -> AdapterName:
        """Let an id, new or not, stand for a version."""
        name = self._state.names.get(adapter_id)
        if name is not None:
            self._publish(name, version, canary_weight, policy)
            return name
        name = self._state.names[adapter_id] = AdapterName(adapter_id, version, policy)
        self._state.count(name, +1)
        self._state.emit(self._state.listener.registrations_changed)
        return name

    def _publish(
        self, name: AdapterName, version: AdapterVersion, canary_weight: float, policy: AdapterPolicy | None,
        keep_canary: bool = False,
    ) -> None:
        """Change what an id stands for."""
        before = name.versions
        self._state.count(name, -1)
        name.unloading = False  # someone wants it after all
        if not keep_canary:
            name.publish(version, canary_weight, self._versions_kept)
        name.policy = policy or name.policy
        self._state.count(name, +1)
        self._state.settle(before, "replaced")
        self._state.changed.notify_all()
        self._state.emit(self._state.listener.registrations_changed)

    def _info(self, name: AdapterName) -> AdapterInfo:
        return name.info(self._state.default_policy)

