"""The adapters' slots as the engine thread sees them, and bringing in what it waits for."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future

from ...api.requests import WeightedAdapter
from ...errors import (
    AdapterCapacityError,
    AdapterError,
    AdapterUnavailableError,
    LoramuxError,
    described,
    panics_as,
)
from .load_threads import joined
from .reading import ReadAdapter, Reader
from .registry import Registry
from .version import AdapterVersion

log = logging.getLogger(__name__)


class Slots:
    """The readings that are under way, and when to start more. Thread-safe.

    `want` brings versions in on the reader's threads, `bring_in` on the caller's.
    """

    def __init__(self, registry: Registry, reader: Reader, max_loads: int) -> None:
        self._registry, self._tiers = registry, registry.tiers
        self._reader, self._max_loads = reader, max_loads
        self._reads: dict[AdapterVersion, Future[None]] = {}

    @property
    def num_loading(self) -> int:
        """Versions that are being brought in for waiting requests."""
        return len(self._reads)

    def acquire(self, versions: Sequence[AdapterVersion]) -> bool:
        """Keep all of them in their slots for one more sequence; False if one is not there."""
        with self._registry.locked():
            return self._tiers.acquire(versions)

    def release(self, versions: Sequence[AdapterVersion]) -> None:
        """Free what a sequence that runs no more kept."""
        with self._registry.locked():
            self._tiers.release(versions)
            self._registry.settle(versions, "replaced")

    def want(self, groups: Sequence[Sequence[AdapterVersion]]) -> set[AdapterVersion]:
        """Bring in what waiting requests need, most urgent first, each request's versions together;
        never waits.

        Returns the versions that must take no new sequences, because the most urgent one that has
        no room is to get their slot.
        """
        with self._registry.locked():
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
                        self._place(version)
                elif (has_room or version is blocked or self._tiers.keeps(version)) and (
                    self.num_loading < self._max_loads
                ):
                    self._read_of(version)
            self._tiers.reserve(blocked)
            if blocked is None or blocked.staged is None:
                return set()
            return self._tiers.in_the_way(blocked)

    def prepare(self, uses: Sequence[WeightedAdapter]) -> Future[None]:
        """Read every version that `uses` may get, unless it was read before: a prompt can be
        encoded for it then.

        Raises UnknownAdapterError at once; the future fails with AdapterUnavailableError.
        """
        with self._registry.locked():
            unread = [
                (use.adapter_id, v)
                for use in uses
                for v in self._registry.alias(use.adapter_id).serving
                if v.details is None
            ]
            reads = [(adapter_id, self._read_of(version)) for adapter_id, version in unread]
        return joined(reads)

    def have_read(self, uses: Sequence[WeightedAdapter]) -> bool:
        """True if every version that `uses` may get at this moment was read before, and has the base's
        tokenizer. Takes no lock: for as long as it holds, the caller has it."""
        for use in uses:
            alias = self._registry.aliases.get(use.adapter_id)
            if alias is None or any((d := v.details) is None or d.tokenizer for v in alias.serving):
                return False
        return True

    def fill(self, versions: Sequence[AdapterVersion]) -> None:
        """Place versions that serve, where there is room, those in host memory at once; never
        waits."""
        with self._registry.locked():
            for version in (v for v in versions if not v.fault):
                if version.staged is None:
                    self._read_of(version)
                else:
                    self._registry.place(version)

    def bring_in(self, version: AdapterVersion) -> None:
        """Read and stage a known version again; the caller keeps it. Raises
        AdapterUnavailableError."""
        if version.staged is not None and version.details is not None:
            return
        started = time.monotonic()
        try:
            with (
                panics_as(AdapterError),
                self._reader.read_again(version.version, version.places) as read,
            ):
                read.stage()
                self._take_in(version, read, started)
        except LoramuxError as error:
            raise AdapterUnavailableError(f"cannot be brought in: {error}") from error

    def _take_in(self, version: AdapterVersion, read: ReadAdapter, started: float) -> None:
        with self._registry.locked():
            self._registry.take_in(version, read)
            self._registry.place(version)
            self._registry.events.adapter_loaded(
                self._registry.info_of(version), time.monotonic() - started
            )

    def _place(self, version: AdapterVersion) -> None:
        """Place a version that requests wait for; they are told when that raises."""
        try:
            self._tiers.place(version)
        except BaseException as error:
            self._failed(version, _unavailable(error, "placed"))

    def _failed(self, version: AdapterVersion, error: LoramuxError) -> None:
        version.error = str(error)
        self._registry.events.adapter_failed([version], error)

    def _refuse_unfit(
        self, groups: Sequence[Sequence[AdapterVersion]]
    ) -> list[Sequence[AdapterVersion]]:
        """Fail those that what is pinned leaves no room for: they would wait for ever, and all
        behind them."""
        if not self._tiers.pinned:  # then `lease` has looked
            return list(groups)
        fitting = []
        for group in groups:
            # One whose versions are there waits for something else, such as another choice of its
            # request.
            if all(v.weights is not None for v in group) or self._tiers.fits(group):
                fitting.append(group)
            else:
                self._registry.events.adapter_failed(
                    group,
                    AdapterCapacityError(
                        "pinned adapters leave no room for the request's adapters"
                    ),
                )
        return fitting

    def _read_of(self, version: AdapterVersion) -> Future[None]:
        """The reading of a version that is under way, or else a new one."""
        read = self._reads.get(version)
        if read is None:
            self._registry.start_loading(version)
            read = self._reads[version] = self._reader.threads.submit(lambda: self._read(version))
        return read

    def _read(self, version: AdapterVersion) -> None:
        try:
            self.bring_in(version)
        except BaseException as error:
            told = _unavailable(error, "brought in")
            with self._registry.locked():
                self._failed(version, told)
            raise told from error
        finally:
            with self._registry.locked():
                del self._reads[version]
                self._registry.end_loading(version)


def _unavailable(error: BaseException, how: str) -> LoramuxError:
    """What requests are told, who wait for an adapter that cannot be had."""
    if isinstance(error, LoramuxError):
        return error
    log.error("an adapter cannot be %s", how, exc_info=error)
    return AdapterUnavailableError(f"cannot be {how}: {described(error)}")
