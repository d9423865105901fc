"""Adapter ids, the versions behind them, their slots, and the leases that keep a version alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import AdapterCapacityError, AdapterInUseError, UnknownAdapterError
from ..kernels.adapter import DeviceAdapter
from ..types import AdapterInfo
from .loader import LoadedAdapter


class AdapterVersion:
    """One immutable resident version. `leases` is guarded by the registry's lock."""

    def __init__(self, adapter_id: str, source: Path, loaded: LoadedAdapter) -> None:
        self.adapter_id = adapter_id
        self.version = loaded.version
        self.weights: DeviceAdapter | None = loaded.weights
        self.leases = 0
        self.retired: str | None = None
        """Why the version takes no new requests; its memory goes with the last lease."""
        self.num_bytes = loaded.weights.num_bytes
        self._source = source
        self._base_model_name, self._modules = loaded.base_model_name, loaded.modules
        self._loaded_at = time.time()

    def info(self) -> AdapterInfo:
        return AdapterInfo(
            self.adapter_id, self.version, str(self._source), self._base_model_name, self._modules,
            self.num_bytes, self.leases, self._loaded_at,
        )


class AdapterRegistry:
    """Thread-safe. A slot is taken from `publish` until a retired version's last lease ends.

    `on_freed(version, reason)` is called outside the lock whenever a version leaves its slot.
    """

    def __init__(self, slots: int, on_freed: Callable[[AdapterVersion, str], None]) -> None:
        self._slots = slots
        self._on_freed = on_freed
        self._changed = threading.Condition()
        self._current: dict[str, AdapterVersion] = {}
        self._resident: set[AdapterVersion] = set()
        self._unloading: set[str] = set()

    def publish(self, adapter_id: str, source: Path, loaded: LoadedAdapter) -> AdapterInfo:
        """Point `adapter_id` at a new version; running requests finish on the old one.

        Loading the same content again changes nothing.
        """
        with self._changed:
            old = self._current.get(adapter_id)
            if old is not None and old.version == loaded.version:
                return old.info()
            self._require_slot(replacing=old)
            new = AdapterVersion(adapter_id, source, loaded)
            self._current[adapter_id] = new
            self._resident.add(new)
            info = new.info()
            freed = self._retire(old, "replaced") if old else None
        self._notify_freed(freed)
        return info

    def lease(self, adapter_id: str) -> AdapterVersion:
        """The id's current version, kept alive until `release`. Raises UnknownAdapterError."""
        with self._changed:
            version = self._current.get(adapter_id)
            if version is None or adapter_id in self._unloading:
                raise UnknownAdapterError(adapter_id)
            version.leases += 1
            return version

    def release(self, version: AdapterVersion) -> None:
        with self._changed:
            version.leases -= 1
            assert version.leases >= 0, "lease released twice"
            freed = self._free_if_unused(version)
            self._changed.notify_all()
        self._notify_freed(freed)

    def unload(self, adapter_id: str, timeout_s: float) -> AdapterInfo:
        """Take the id away and free its version, waiting up to `timeout_s` seconds for its leases.

        New requests get UnknownAdapterError meanwhile. Raises AdapterInUseError, with the id
        serving again, when leases remain.
        """
        with self._changed:
            version = self._current.get(adapter_id)
            if version is None or adapter_id in self._unloading:
                raise UnknownAdapterError(adapter_id)
            self._unloading.add(adapter_id)
            try:
                # A reload meanwhile puts another version under the id: then this one is retired already.
                self._changed.wait_for(lambda: version.leases == 0 or version.retired, timeout_s)
            finally:
                self._unloading.discard(adapter_id)
            if self._current.get(adapter_id) is not version:
                raise AdapterInUseError(f"adapter {adapter_id!r} was reloaded while it was being unloaded")
            if version.leases:
                raise AdapterInUseError(f"adapter {adapter_id!r} is in use by {version.leases} sequences")
            info = version.info()
            del self._current[adapter_id]
            freed = self._retire(version, "unloaded")
        self._notify_freed(freed)
        return info

    def get(self, adapter_id: str) -> AdapterInfo:
        with self._changed:
            if adapter_id not in self._current:
                raise UnknownAdapterError(adapter_id)
            return self._current[adapter_id].info()

    def list(self) -> list[AdapterInfo]:
        with self._changed:
            return [self._current[name].info() for name in sorted(self._current)]

    def totals(self) -> tuple[int, int, int]:
        """(resident versions, their bytes, leases)."""
        with self._changed:
            resident = self._resident
            return len(resident), sum(v.num_bytes for v in resident), sum(v.leases for v in resident)

    def _require_slot(self, replacing: AdapterVersion | None = None) -> None:
        # An idle version that is being replaced leaves its slot at once.
        freed = 1 if replacing is not None and replacing.leases == 0 else 0
        if len(self._resident) - freed >= self._slots:
            raise AdapterCapacityError(f"all {self._slots} adapter slots are taken; unload one first")

    def _retire(self, version: AdapterVersion, reason: str) -> AdapterVersion | None:
        version.retired = reason
        self._changed.notify_all()
        return self._free_if_unused(version)

    def _free_if_unused(self, version: AdapterVersion) -> AdapterVersion | None:
        if version.retired is None or version.leases or version not in self._resident:
            return None
        self._resident.discard(version)
        version.weights = None
        return version

    def _notify_freed(self, version: AdapterVersion | None) -> None:
        if version is not None:
            self._on_freed(version, version.retired or "")
