"""The adapters' life: from a source through host memory into a slot and back, under the ids that
requests name."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ...api.adapters import AdapterInfo, AdapterPolicy, Registration
from ...api.reports import ResidentAdapter
from ...api.requests import WeightedAdapter
from ...config import EngineConfig
from ...errors import AdapterError, AdapterUnavailableError, panics_as
from ..device import AdapterHost
from ..peft.update import CheckedAdapter
from .events import StoreListener
from .reading import Reader
from .registry import Registry
from .slots import Slots
from .version import AdapterVersion

log = logging.getLogger(__name__)
_JOIN_S = 1.0
"""Seconds that the end waits for loads. One that only reads and computes ends sooner."""


class AdapterStore:
    """The order of the work: reading, staging, the registry, slots. Thread-safe.

    Files are read and staged on the caller's thread (`load`, `rollback`) or on a pool (on demand).
    """

    def __init__(self, base: AdapterHost, config: EngineConfig, listener: StoreListener) -> None:
        self._registry = Registry(base, config, listener)
        self._reader = Reader(base, config, self._registry.directories)
        self.slots = Slots(self._registry, self._reader, config.adapter_load_threads)

    def close(self) -> None:
        """Start no more loads, wait a second for those that run, and let go of the slots."""
        self.stop_loading()
        self._reader.threads.join(_JOIN_S)
        with self._registry.locked():
            self._registry.tiers.close()

    def stop_loading(self) -> None:
        """Start no more loads; those that run end unheard. Never waits."""
        self._reader.close()

    # --- ids ------------------------------------------------------------------------------------

    def load(
        self,
        source: str,
        adapter_id: str,
        canary_weight: float = 0,
        policy: AdapterPolicy | None = None,
        roots: Sequence[Path] = (),
        pin_share: float = 1.0,
        allow_unknown_fields: bool = False,
        replace: bool = True,
    ) -> AdapterInfo:
        """Read, check, stage and register; into a slot at once where there is room. Raises
        AdapterExistsError for an id in use that is not to be replaced."""
        started = time.monotonic()
        registry = self._registry
        if not replace:
            registry.check_free(adapter_id)
        with (
            panics_as(AdapterError),
            self._reader.read(source, roots, allow_unknown_fields) as read,
        ):
            place = read.registered
            if not registry.has_staged(place.version):
                read.stage()  # it takes a while: not under the lock, unless another thread drops the staged copy now
            with registry.locked():
                if not replace:
                    registry.check_free(adapter_id)  # again: reading took a while
                with registry.kept(lambda: registry.known(place, adapter_id)) as version:
                    registry.take_in(version, read)
                    registry.point(adapter_id, version, place, canary_weight, policy, pin_share)
                    version.fault = ""  # not where the load is refused
                    registry.place(version)
                info = registry.info(adapter_id)
                registry.events.adapter_loaded(info, time.monotonic() - started)
            _tell(adapter_id, read.checked)
            return info

    def register(self, registration: Registration) -> None:
        """Know an id again without reading anything; its first request brings it in."""
        self._registry.register(registration)

    def unload(self, adapter_id: str, timeout_s: float) -> AdapterInfo:
        """Take the id away and free what no other id knows, waiting up to `timeout_s` seconds for
        its leases.

        New requests get UnknownAdapterError meanwhile. Raises AdapterInUseError, with the id
        serving again, when leases remain.
        """
        return self._registry.unload(adapter_id, timeout_s)

    def rollback(self, adapter_id: str, version: str) -> AdapterInfo:
        """Let an older version serve again; it is brought in first. Raises AdapterUnavailableError."""
        registry = self._registry
        with registry.kept(
            lambda: registry.alias(adapter_id).target_of_rollback(version)
        ) as target:
            try:
                self.slots.bring_in(target)
            except AdapterUnavailableError as error:
                raise error.of(adapter_id) from error
            with registry.locked():
                registry.roll_back(adapter_id, target)
                registry.place(target)
                return registry.info(adapter_id)

    def set_canary(self, adapter_id: str, weight: float) -> AdapterInfo:
        """Change the canary's share: 0 drops it, 1 makes it the version that serves."""
        return self._registry.set_canary(adapter_id, weight)

    def set_policy(
        self, adapter_id: str, policy: AdapterPolicy, pin_share: float = 1.0
    ) -> AdapterInfo | None:
        """Change the policy of an id, of the base (""), or of all without their own ("*"): these
        two can pin nothing and give None.

        Raises UnknownAdapterError, and AdapterCapacityError when the slots would not hold what is
        pinned, or that takes more than `pin_share` of them.
        """
        if adapter_id in ("", "*"):
            self._registry.set_shared_policy(adapter_id, policy)
            return None
        with self._registry.locked():
            serving = self._registry.set_policy(adapter_id, policy, pin_share)
            if policy.pinned:
                self.slots.fill(serving)
            return self._registry.info(adapter_id)

    def policy(self, adapter_id: str) -> AdapterPolicy:
        """The policy that applies to an id, or to the base (""); takes no lock."""
        return self._registry.policy(adapter_id)

    def get(self, adapter_id: str) -> AdapterInfo:
        """Raises UnknownAdapterError."""
        return self._registry.info(adapter_id)

    def has(self, adapter_id: str) -> bool:
        """Whether the id is in use; takes no lock."""
        return adapter_id in self._registry.aliases

    def adapter_ids(self) -> tuple[str, ...]:
        """Ids, sorted; the same object until they change."""
        return self._registry.adapter_ids()

    def registrations(self) -> list[Registration]:
        """Registrations of all ids, sorted by id."""
        return self._registry.registrations()

    # --- leases ---------------------------------------------------------------------------------

    def lease(self, uses: Sequence[WeightedAdapter]) -> list[AdapterVersion]:
        """A version for each, kept alive until `release`.

        Raises UnknownAdapterError, AdapterCapacityError when the slots could never hold all at
        once, AdapterUnavailableError when one was not read since it was registered (see
        Slots.prepare).
        """
        return self._registry.lease(uses)

    def release(self, uses: Sequence[WeightedAdapter], versions: Sequence[AdapterVersion]) -> None:
        """End the leases that were given for the same uses."""
        self._registry.release(uses, versions)

    def lease_at_once(self, uses: Sequence[WeightedAdapter]) -> list[AdapterVersion] | None:
        """Versions as `lease` gives them, for an event loop: None if one that `uses` may get was not
        read, or has a tokenizer of its own, or if another thread has the lock. Never waits."""
        with self._registry.locked_if_free() as free:
            return self._registry.lease(uses) if free and self.slots.have_read(uses) else None

    def release_at_once(
        self, uses: Sequence[WeightedAdapter], versions: Sequence[AdapterVersion]
    ) -> None:
        """Release as `release`, for an event loop: a thread does it if another has the lock."""
        with self._registry.locked_if_free() as free:
            if free:
                self._registry.release(uses, versions)
                return
        threading.Thread(
            target=self._registry.release,
            args=(uses, versions),
            name="loramux-release",
            daemon=True,  # whoever has the lock may hang
        ).start()

    def take_out(self, version: AdapterVersion, reason: str) -> None:
        """Take a version out of service, because steps with it fail."""
        self._registry.take_out(version, reason)

    def residents(self) -> tuple[ResidentAdapter, ...]:
        """Versions in a slot, in host memory or on their way there, the same object until they
        change; takes no lock."""
        return self._registry.residents.report()

    def running(self) -> dict[str, int]:
        """Sequences that run now with each version in a slot."""
        with self._registry.locked():
            return {v.version: v.running for v in self._registry.tiers.resident}

    def awaited(self) -> tuple[str, ...]:
        """Ids that requests wait for, in no slot and on their way to none, sorted; takes no lock."""
        return tuple(sorted({i for v in self._registry.tiers.awaited for i in list(v.ids)}))

    def totals(self) -> dict[str, int]:
        """The adapters' part of EngineStats."""
        with self._registry.locked():
            return self._registry.totals() | {"loading_adapters": self.slots.num_loading}


def _tell(adapter_id: str, checked: CheckedAdapter) -> None:
    """Log what a load accepted that has no effect; what is only read again is not told again."""
    for note in checked.notes:
        level = logging.WARNING if note in checked.warnings else logging.INFO
        log.log(level, "adapter %s: %s", adapter_id, note)
