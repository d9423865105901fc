"""The ids and versions that are known, and the bookkeeping that keeps them true."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ...api.adapters import AdapterInfo, AdapterPolicy, RegisteredVersion, Registration
from ...api.requests import WeightedAdapter
from ...config import EngineConfig
from ...errors import (
    AdapterCapacityError,
    AdapterExistsError,
    AdapterInUseError,
    AdapterUnavailableError,
    UnknownAdapterError,
)
from ..device import AdapterHost
from .aliases import Alias
from .events import EventLock, StoreListener
from .pins import check_pins
from .reading import ReadAdapter
from .residents import Residents
from .tiers import Tiers
from .version import AdapterVersion


class Registry:
    """Ids, versions and the tiers these are in, under one lock; the listener hears of what changes.

    `versions` has, by hash, all that an id knows, a request uses or a thread brings in.
    AdapterStore says of the calls that it passes on what they give and raise. Thread-safe, except
    that `alias`, `tiers` and the last part, "under the lock", want it held.
    """

    def __init__(self, base: AdapterHost, config: EngineConfig, listener: StoreListener) -> None:
        self.events = EventLock(listener)
        self.aliases: dict[str, Alias] = {}
        self.versions: dict[str, AdapterVersion] = {}
        self._sorted_ids: tuple[str, ...] | None = ()
        self._leases = 0
        self.residents = Residents()
        self.tiers = Tiers(
            base,
            slots=config.max_adapters,
            device_bytes=config.adapter_device_bytes,
            host_bytes=config.adapter_host_bytes,
            on_evicted=self._on_evicted,
            on_change=self._note,
        )
        self._versions_kept = config.adapter_versions_kept
        self._random = random.Random()
        self._base_policy: AdapterPolicy | None = None
        self._default_policy = AdapterPolicy()

    def locked(self) -> AbstractContextManager[None]:
        """The lock, re-entrant; the listener hears of what happens under it once it is free."""
        return self.events

    def locked_if_free(self) -> AbstractContextManager[bool]:
        """The same lock, unless another thread has it, and whether it was free; never waits."""
        return self.events.if_free()

    # --- ids ------------------------------------------------------------------------------------

    def alias(self, adapter_id: str) -> Alias:
        """The id as new requests may have it. Raises UnknownAdapterError, while it is being
        unloaded too."""
        alias = self.aliases.get(adapter_id)
        if alias is None or alias.unloading:
            raise UnknownAdapterError(adapter_id)
        return alias

    def check_free(self, adapter_id: str) -> None:
        """Raise AdapterExistsError for an id in use; one that is being unloaded may be had."""
        with self.locked():
            alias = self.aliases.get(adapter_id)
            if alias is not None and not alias.unloading:
                raise AdapterExistsError(f"adapter {adapter_id!r} is registered already")

    def register(self, registration: Registration) -> None:
        with self.locked():
            adapter_id = registration.adapter_id
            if adapter_id not in self.aliases:
                self._add(
                    Alias.restored(
                        registration,
                        lambda place: self.known(place, adapter_id),
                        self._versions_kept,
                    )
                )

    def point(
        self,
        adapter_id: str,
        version: AdapterVersion,
        place: RegisteredVersion,
        canary_weight: float,
        policy: AdapterPolicy | None,
        pin_share: float,
    ) -> None:
        """Let an id, new or not, stand for a version. Raises AdapterCapacityError where pinned ones
        leave no room, or would take more than `pin_share` of it."""
        with self.locked():
            alias = self.aliases.get(adapter_id)
            leaving = [] if alias is None or canary_weight else alias.replaced_by_next()
            if not self.tiers.fits([version], leaving):
                raise AdapterCapacityError(
                    f"adapter {adapter_id!r} does not fit into the adapter slots beside the pinned adapters"
                )
            held = policy or (alias.policy if alias is not None else None)
            if held is not None and held.pinned:
                check_pins(self.tiers, adapter_id, [version], leaving, pin_share)
            version.adapter_id = adapter_id
            if alias is None:
                self._add(alias := Alias(adapter_id, version, policy))
            else:
                with self._changing(alias):
                    alias.publish(version, canary_weight, self._versions_kept)
                    alias.policy = policy or alias.policy
            alias.came_from(version, place)

    def roll_back(self, adapter_id: str, target: AdapterVersion) -> None:
        """Let an older version serve. Raises UnknownAdapterError, AdapterUnavailableError when it
        is older no more."""
        with self.locked():
            alias = self.alias(adapter_id)
            if target not in alias.older:
                raise AdapterUnavailableError(
                    f"adapter {adapter_id!r} was changed meanwhile", adapter_id
                )
            with self._changing(alias):
                alias.publish(target, 0, self._versions_kept)

    def set_canary(self, adapter_id: str, weight: float) -> AdapterInfo:
        with self.locked():
            alias = self.alias(adapter_id)
            if alias.canary is None:
                raise AdapterUnavailableError(f"adapter {adapter_id!r} has no canary", adapter_id)
            if weight and alias.canary.fault:
                raise alias.canary.unavailable().of(adapter_id)
            with self._changing(alias):
                alias.publish(
                    alias.canary if weight else alias.current, weight % 1, self._versions_kept
                )
            return alias.info(self._default_policy)

    def unload(self, adapter_id: str, timeout_s: float) -> AdapterInfo:
        alias = self._drain(adapter_id, timeout_s)
        with self.locked():
            if not alias.unloading:
                raise AdapterInUseError(
                    f"adapter {adapter_id!r} was loaded anew while it was being unloaded"
                )
            alias.unloading = False
            if alias.leases:
                raise AdapterInUseError(
                    f"adapter {adapter_id!r} is in use by {alias.leases} requests"
                )
            info = alias.info(self._default_policy)
            del self.aliases[adapter_id]
            self._sorted_ids = None
            self._count(alias, -1)
            self.settle(alias.versions, "unloaded")
            self.events.registrations_changed()
            return info

    def info(self, adapter_id: str) -> AdapterInfo:
        """Raises UnknownAdapterError."""
        with self.locked():
            if adapter_id not in self.aliases:
                raise UnknownAdapterError(adapter_id)
            return self.aliases[adapter_id].info(self._default_policy)

    def adapter_ids(self) -> tuple[str, ...]:
        """Ids, sorted; sorted anew only after a change, since steps wait for the lock."""
        with self.locked():
            if self._sorted_ids is None:
                self._sorted_ids = tuple(sorted(self.aliases))
            return self._sorted_ids

    def registrations(self) -> list[Registration]:
        found = []
        for adapter_id in self.adapter_ids():
            with self.locked():  # one at a time, since steps wait for the lock
                if (alias := self.aliases.get(adapter_id)) is not None:
                    found.append(alias.registration())
        return found

    # --- policies -------------------------------------------------------------------------------

    def policy(self, adapter_id: str) -> AdapterPolicy:
        """The policy that applies to an id, or to the base (""); takes no lock."""
        alias = self.aliases.get(adapter_id)
        own = self._base_policy if adapter_id == "" else alias.policy if alias is not None else None
        return own or self._default_policy

    def set_policy(
        self, adapter_id: str, policy: AdapterPolicy, pin_share: float
    ) -> list[AdapterVersion]:
        """Change an id's policy; gives the versions that serve it. Raises UnknownAdapterError,
        AdapterCapacityError."""
        with self.locked():
            alias = self.alias(adapter_id)
            if policy.pinned and not self.tiers.fits(alias.serving):
                raise AdapterCapacityError(
                    f"adapter {adapter_id!r} cannot be pinned: the slots would not hold it"
                )
            if policy.pinned:
                check_pins(self.tiers, adapter_id, alias.serving, [], pin_share)
            with self._changing(alias):
                alias.policy = policy
            return alias.serving

    def set_shared_policy(self, adapter_id: str, policy: AdapterPolicy) -> None:
        """Change the base's (""), or that of all adapters without their own ("*"). Raises
        AdapterCapacityError for a pinned one."""
        if policy.pinned:
            raise AdapterCapacityError("only single adapters can be pinned")
        if adapter_id == "":
            self._base_policy = policy
        else:
            self._default_policy = policy

    # --- leases ---------------------------------------------------------------------------------

    def lease(self, uses: Sequence[WeightedAdapter]) -> list[AdapterVersion]:
        with self.locked():
            aliases = [self.alias(use.adapter_id) for use in uses]
            versions = [alias.pick(self._random.random()) for alias in aliases]
            for alias, version in zip(aliases, versions, strict=True):
                if version.fault:
                    raise version.unavailable().of(alias.adapter_id)
            if any(v.details is None for v in versions):
                raise AdapterUnavailableError(
                    "one of the adapters was registered anew meanwhile; try again"
                )
            if len(set(versions)) < len(versions):
                raise AdapterCapacityError("two of the adapters are the same version: name it once")
            if not self.tiers.fits(versions):
                raise AdapterCapacityError("the adapter slots cannot hold these adapters at once")
            for alias, version in zip(aliases, versions, strict=True):
                alias.lease(version)
            self._leases += len(versions)
            return versions

    def release(self, uses: Sequence[WeightedAdapter], versions: Sequence[AdapterVersion]) -> None:
        with self.locked():
            for use, version in zip(uses, versions, strict=True):
                self.aliases[use.adapter_id].release(version)  # it cannot go while it is leased
                self._leases -= 1
            self.events.changed.notify_all()
            self.settle(versions, "replaced")

    # --- versions -------------------------------------------------------------------------------

    def has_staged(self, version: str) -> bool:
        """Whether host memory has it at this moment; takes no lock."""
        known = self.versions.get(version)
        return known is not None and known.staged is not None

    def take_out(self, version: AdapterVersion, reason: str) -> None:
        """Give a version to no more requests until it is loaded again; its weights go once none
        runs with it."""
        with self.locked():
            version.fault = reason
            self._note(version)
            self.settle([version], "out_of_service")
            self.events.adapter_out_of_service(version, self.info_of(version))

    @contextmanager
    def kept(self, find: Callable[[], AdapterVersion]) -> Iterator[AdapterVersion]:
        """Find a version, with the lock; while it is brought in, it is not forgotten and its staged
        copy stays."""
        with self.locked():
            version = find()
            self.start_loading(version)
        try:
            yield version
        finally:
            self.end_loading(version)

    def end_loading(self, version: AdapterVersion) -> None:
        with self.locked():
            version.loading -= 1
            self._note(version)
            self.settle([version], "replaced")

    def directories(self) -> set[Path]:
        """Directories that known versions were read from."""
        with self.locked():
            return {Path(place.directory) for v in self.versions.values() for place in v.places}

    def totals(self) -> dict[str, int]:
        """The registry's part of EngineStats, the tiers' included."""
        with self.locked():
            return {
                "registered_adapters": len(self.aliases),
                "out_of_service_adapters": sum(bool(v.fault) for v in self.versions.values()),
                "leases": self._leases,
            } | self.tiers.totals()

    # --- versions, under the lock ---------------------------------------------------------------

    def known(self, place: RegisteredVersion, adapter_id: str) -> AdapterVersion:
        """The version, known from now on if it was not, to be read again from there first."""
        version = self.versions.setdefault(place.version, AdapterVersion(place, adapter_id))
        version.add_place(place)
        return version

    def start_loading(self, version: AdapterVersion) -> None:
        """Count a thread that brings it in, until `end_loading`."""
        version.loading += 1
        self._note(version)

    def take_in(self, version: AdapterVersion, read: ReadAdapter) -> None:
        """Note what was read of a version, and stage it in host memory unless it is there."""
        version.details, version.error = read.details, ""
        version.add_place(read.registered)
        if version.staged is None:
            self.tiers.stage(version, read.stage())
            version.loaded_at = time.time()

    def place(self, version: AdapterVersion) -> None:
        """Put a staged version that serves an id into a slot, if there is room."""
        if version.serving and version.weights is None and not version.fault:
            self.tiers.place(version)

    def settle(self, versions: Sequence[AdapterVersion], reason: str) -> None:
        """Free what has become useless: slots of versions that serve no id, and all of those that
        no id knows."""
        for version in versions:
            if version.needs_no_slot and version.weights is not None:
                self.tiers.demote(version, "out_of_service" if version.fault else reason)
            if version.fault and version.weights is None and not version.loading:
                self.tiers.unstage(version)  # what is loaded again is staged anew
            self._forget_if_unused(version)
        self.tiers.trim()

    def info_of(self, version: AdapterVersion) -> AdapterInfo:
        """The version alone, under the id that it was registered with last."""
        return Alias(version.adapter_id, version).info(self._default_policy)

    # --- bookkeeping ----------------------------------------------------------------------------

    def _add(self, alias: Alias) -> None:
        self.aliases[alias.adapter_id] = alias
        self._sorted_ids = None
        self._count(alias, +1)
        self.events.registrations_changed()

    @contextmanager
    def _changing(self, alias: Alias) -> Iterator[None]:
        """Let what an id stands for, or its policy, change while this is entered."""
        before = alias.versions
        self._count(alias, -1)
        alias.unloading = False  # someone wants it after all
        yield
        self._count(alias, +1)
        self.settle(before, "replaced")
        self.events.changed.notify_all()
        self.events.registrations_changed()

    def _count(self, alias: Alias, change: int) -> None:
        alias.count(change)
        for version in alias.versions:
            self._note(version)
        for version in alias.serving:
            self.tiers.pin(version, version.pins > 0)

    def _drain(self, adapter_id: str, timeout_s: float) -> Alias:
        """Give no new leases of an id and wait for those that there are."""
        with self.events.changed:  # not `locked`: others' events go out while this waits
            alias = self.alias(adapter_id)
            alias.unloading = True
            try:
                self.events.changed.wait_for(
                    lambda: alias.leases == 0 or not alias.unloading, timeout_s
                )
            except BaseException:
                alias.unloading = False
                raise
            return alias

    def _forget_if_unused(self, version: AdapterVersion) -> None:
        if version.is_unused and self.versions.get(version.version) is version:
            self.tiers.drop(version, "unloaded")
            del self.versions[version.version]
            self.events.adapter_forgotten(version)

    def _note(self, version: AdapterVersion) -> None:
        self.residents.note(version, version in self.tiers.pinned)

    def _on_evicted(self, version: AdapterVersion, reason: str) -> None:
        self.events.adapter_evicted(version, self.info_of(version), reason)
