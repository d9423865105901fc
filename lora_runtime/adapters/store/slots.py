"""The adapters' slots as the engine thread sees them, and bringing in what it waits for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future

from ...api.requests import WeightedAdapter
from ...errors import AdapterCapacityError, AdapterUnavailableError, LoramuxError
from .load_threads import joined
from .reading import Reader
from .registry import StoreState
from .version import AdapterVersion


class Slots:
    """Thread-safe. `want` brings versions in on the reader's threads, `bring_in` on the caller's."""

    def __init__(self, state: StoreState, reader: Reader, max_loads: int) -> None:
        self._state, self._reader, self._max_loads = state, reader, max_loads
        self._reads: dict[AdapterVersion, Future[None]] = {}

    @property
    def num_loading(self) -> int:
        """Versions that are being brought in for waiting requests."""
        return len(self._reads)

    def acquire(self, versions: Sequence[AdapterVersion]) -> bool:
        """Keep all of them in their slots for one more sequence; False if one is not there."""
        with self._state.changed:
            if any(v.weights is None for v in versions):
                return False
            for version in versions:
                version.running += 1
                self._state.tiers.touch(version)
            return True

    def release(self, versions: Sequence[AdapterVersion]) -> None:
        """The sequence runs no more."""
        with self._state.locked():
            for version in versions:
                version.running -= 1
                self._state.tiers.touch(version)
                assert version.running >= 0, "slot given back twice"
            self._state.settle(versions, "replaced")

    def want(self, groups: Sequence[Sequence[AdapterVersion]]) -> set[AdapterVersion]:
        """Bring in what waiting requests need, most urgent first, each request's versions together; never waits.

        Returns the versions that must take no new sequences, because the most urgent one that has no room is to get
        their slot.
        """
        with self._state.locked():
            groups = self._refuse_unfit(groups)
            versions = [v for group in groups for v in group]
            self._state.tiers.want(versions)
            blocked: AdapterVersion | None = None
            for version in self._state.tiers.next_in(versions):
                has_room = self._state.tiers.has_room(version)
                if not has_room:
                    blocked = blocked or version
                if version.loading:
                    continue
                if version.staged is not None:
                    if has_room:
                        self._state.tiers.place(version)
                elif (has_room or version is blocked or self._state.tiers.keeps(version)) and (
                        self.num_loading < self._max_loads):
                    self.read_of(version)
            self._state.tiers.reserve(blocked)
            if blocked is None or blocked.staged is None:
                return set()
            return self._state.tiers.in_the_way(blocked)

    def _refuse_unfit(self, groups: Sequence[Sequence[AdapterVersion]]) -> list[Sequence[AdapterVersion]]:
        """Fail those that what is pinned leaves no room for: they would wait for ever, and all behind them."""
        if not self._state.tiers.pinned:  # then `lease` has looked
            return list(groups)
        fitting = []
        for group in groups:
            # One whose versions are there waits for something else, such as another choice of its request.
            if all(v.weights is not None for v in group) or self._state.tiers.fits(group):
                fitting.append(group)
            else:
                self._fail(group, AdapterCapacityError("pinned adapters leave no room for the request's adapters"))
        return fitting

    def prepare(self, uses: Sequence[WeightedAdapter]) -> Future[None]:
        """Done when every version that `uses` may get has been read once, so that a prompt can be encoded for it.

        Raises UnknownAdapterError at once; the future fails with AdapterUnavailableError.
        """
        with self._state.changed:
            unread = [(use.adapter_id, v) for use in uses for v in self._state.name(use.adapter_id).serving
                      if v.details is None]
            reads = [(adapter_id, self.read_of(version)) for adapter_id, version in unread]
        return joined(reads)

    def read_of(self, version: AdapterVersion) -> Future[None]:
        """The reading of a version that is under way, or else a new one; the lock is held."""
        read = self._reads.get(version)
        if read is None:
            version.loading += 1
            read = self._reads[version] = self._reader.threads.submit(lambda: self._read(version))
        return read

    def _read(self, version: AdapterVersion) -> None:
        try:
            self.bring_in(version)
        except Exception as error:
            with self._state.locked():
                version.error = str(error)
                self._fail([version], error)
            raise
        finally:
            with self._state.locked():
                version.loading -= 1
                del self._reads[version]
                self._state.settle([version], "replaced")

    def bring_in(self, version: AdapterVersion) -> None:
        """Read and stage a known version again. Raises AdapterUnavailableError."""
        if version.staged is not None and version.details is not None:
            return
        started = time.monotonic()
        try:
            read = self._reader.read_again(version.version, version.places)
            staged = read.stage()
        except LoramuxError as error:
            raise AdapterUnavailableError(f"cannot be brought in: {error}") from error
        with self._state.locked():
            version.details, version.error = read.details, ""
            version.add_place(read.registered)
            if version.staged is None:
                self._state.tiers.stage(version, staged)
                version.loaded_at = time.time()
            if version.serving and version.weights is None:
                self._state.tiers.place(version)
            info, seconds = self._state.info_of(version), time.monotonic() - started
            self._state.emit(lambda: self._state.listener.adapter_loaded(info, seconds))

    def _fail(self, versions: Sequence[AdapterVersion], error: Exception) -> None:
        self._state.emit(lambda: self._state.listener.adapter_failed(versions, error))

