"""Slots and host memory, each within its budget; the least recently used versions leave first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from ...errors import AdapterCapacityError, NotYetFreeError
from ..device import AdapterHost, StagedAdapter
from .version import AdapterVersion

log = logging.getLogger(__name__)
_UNWANTED = 1 << 30
SHORTAGE_S = 10.0
"""Time for which as much as did not fit into the device's memory is not tried again."""


class Tiers:
    """Versions in slots and in host memory. Guarded by the registry's lock.

    Nothing that sequences run with, or that is pinned, is ever taken out of its slot. Slots are
    sized by what is in them: at most `slots` versions and, unless 0, `device_bytes` bytes.
    `on_evicted` is called with a version and the reason whenever one leaves its slot, `on_change`
    with one that comes into a slot or host memory, leaves it, or is pinned or not.
    """

    def __init__(
        self,
        base: AdapterHost,
        *,
        slots: int,
        device_bytes: int,
        host_bytes: int,
        on_evicted: Callable[[AdapterVersion, str], None],
        on_change: Callable[[AdapterVersion], None],
    ) -> None:
        self._base = base
        self._slots, self._device_budget, self._host_budget = slots, device_bytes, host_bytes
        self._on_evicted, self._on_change = on_evicted, on_change
        # Where placing copies nothing, a slot is the host memory that the version was staged in:
        # it counts once.
        self._shared = base.shares_host_memory
        self._short_of, self._short_until = 0, 0.0
        self._rank: dict[AdapterVersion, int] = {}
        self._clock = 0
        self._host_grew = False
        self._reserved: AdapterVersion | None = None
        self.resident: set[AdapterVersion] = set()
        self.pinned: set[AdapterVersion] = set()
        self.hosted: set[AdapterVersion] = set()
        """Versions with a staged copy in host memory."""

    @property
    def device_bytes(self) -> int:
        return sum(v.device_bytes for v in self.resident)

    @property
    def capacity(self) -> tuple[int, int]:
        """Slots and, unless 0, the bytes that all of them may take."""
        return self._slots, self._device_budget

    @property
    def host_only(self) -> list[AdapterVersion]:
        """Versions whose staged copy takes memory of its own."""
        return [v for v in self.hosted if not (self._shared and v.weights is not None)]

    @property
    def host_bytes(self) -> int:
        return sum(v.host_bytes for v in self.host_only)

    def totals(self) -> dict[str, int]:
        """The tiers' part of EngineStats."""
        return {
            "adapters": len(self.resident),
            "adapter_bytes": self.device_bytes,
            "host_adapters": len(self.host_only),
            "host_adapter_bytes": self.host_bytes,
        }

    def touch(self, version: AdapterVersion) -> None:
        self._clock += 1
        version.last_used = self._clock

    def acquire(self, versions: Sequence[AdapterVersion]) -> bool:
        """Keep all of them in their slots for one more sequence; False if one is not there."""
        if any(v.weights is None for v in versions):
            return False
        for version in versions:
            version.running += 1
            self.touch(version)
        return True

    def release(self, versions: Sequence[AdapterVersion]) -> None:
        """Count a sequence that runs no more."""
        for version in versions:
            version.running -= 1
            self.touch(version)
            assert version.running >= 0, "slot given back twice"

    def want(self, versions: Sequence[AdapterVersion]) -> None:
        """Rank the versions that waiting requests need, most urgent first: none makes room for one
        behind it."""
        self._rank = {v: i for i, v in reversed(list(enumerate(versions)))}

    @property
    def awaited(self) -> list[AdapterVersion]:
        """Versions that requests wait for, most urgent first, with no slot and on their way to
        none; as of the last step. Takes no lock."""
        return [v for v in list(self._rank) if v.weights is None and not v.loading and v.leases]

    def pin(self, version: AdapterVersion, pinned: bool) -> None:
        """Count a pinned version as in its slot, whether it has come there yet or not."""
        (self.pinned.add if pinned else self.pinned.discard)(version)
        self._unpin_if_too_many(version)
        self._on_change(version)

    def _unpin_if_too_many(self, version: AdapterVersion) -> None:
        """Let the pinned fit into the slots together, or nothing would be served any more."""
        if version in self.pinned and not self.fits([]):
            self.pinned.discard(version)
            log.warning(
                "adapter %s is not pinned: the slots do not hold all that is pinned",
                version.adapter_id,
            )

    def stage(self, version: AdapterVersion, staged: StagedAdapter) -> None:
        """Put it into host memory; others, or it itself, leave if that is over the budget once
        `trim` is called."""
        version.staged = staged
        version.device_bytes, version.host_bytes = staged.num_bytes, staged.host_bytes
        self._unpin_if_too_many(version)
        self.hosted.add(version)
        self._on_change(version)
        self._host_grew = True
        self.touch(version)

    def place(self, version: AdapterVersion) -> bool:
        """Bring it from host memory into a slot, if room can be made and the device has the memory."""
        assert version.staged is not None
        victims = self.victims(version)
        if victims is None:
            return False
        for victim in victims:
            self.demote(victim, "evicted")
        try:
            version.weights = self._base.place_adapter(version.staged)
        except NotYetFreeError:
            return False
        except AdapterCapacityError as error:
            # The budget promised more than there is: until things have changed, others leave first.
            self._short_of, self._short_until = (
                self.device_bytes + version.device_bytes,
                time.monotonic() + SHORTAGE_S,
            )
            log.warning(
                "adapter %s is not placed beside %d bytes of others: %s",
                version.adapter_id,
                self.device_bytes,
                error,
            )
            return False
        self.resident.add(version)
        self._on_change(version)
        self.touch(version)
        return True

    def next_in(self, versions: Sequence[AdapterVersion]) -> list[AdapterVersion]:
        """Wanted versions without a slot, most urgent first, as many as fit together."""
        count, size = len(self.pinned), sum(v.device_bytes for v in self.pinned)
        found: list[AdapterVersion] = []
        for version in dict.fromkeys(versions):
            if version not in self.pinned:
                count, size = count + 1, size + version.device_bytes
            if not self._within(count, size):
                break
            if version.weights is None:
                found.append(version)
        return found

    def has_room(self, version: AdapterVersion) -> bool:
        """Whether `place` would succeed now."""
        return self.victims(version) is not None

    def victims(self, version: AdapterVersion) -> list[AdapterVersion] | None:
        """The fewest versions that have to leave for this one, or None where that is not enough."""
        count, size = len(self.resident) + 1, self.device_bytes + version.device_bytes
        if (first := self._before(version)) is not None:
            count, size = count + 1, size + first.device_bytes
        victims: list[AdapterVersion] = []
        for victim in sorted(
            (v for v in self._movable(version) if not v.running), key=lambda v: v.last_used
        ):
            if self._within(count, size):
                break
            victims.append(victim)
            count, size = count - 1, size - victim.device_bytes
        return victims if self._within(count, size) else None

    def keeps(self, version: AdapterVersion) -> bool:
        """Whether host memory would hold it until there is room in the slots."""
        rank = self._rank.get(version, _UNWANTED)
        before = sum(v.host_bytes for v in self.host_only if self._rank.get(v, _UNWANTED) < rank)
        return before + version.host_bytes <= self._host_budget

    def reserve(self, version: AdapterVersion | None) -> None:
        """Promise a version the next free slot: it stays in host memory even beyond the budget."""
        if version is not self._reserved:
            self._reserved, self._host_grew = version, True
            self.trim()

    def fits(
        self, versions: Sequence[AdapterVersion], leaving: Sequence[AdapterVersion] = ()
    ) -> bool:
        """Whether these could be in slots together, once all has left that is not pinned, or is
        `leaving`."""
        kept = self.pinned.difference(leaving).union(versions)
        return self._within_budget(len(kept), sum(v.device_bytes for v in kept))

    def in_the_way(self, version: AdapterVersion) -> set[AdapterVersion]:
        """Versions that must drain before `version` can be placed: those with the fewest running
        sequences, idle ones included, which would be taken into use again until all of them have.
        """
        found: set[AdapterVersion] = set()
        count, size = len(self.resident) + 1, self.device_bytes + version.device_bytes
        for victim in sorted(self._movable(version), key=lambda v: (v.running, v.last_used)):
            if self._within(count, size):
                break
            found.add(victim)
            count, size = count - 1, size - victim.device_bytes
        return found

    def demote(self, version: AdapterVersion, reason: str) -> None:
        """Take it out of its slot; a staged copy stays."""
        assert version.running == 0, "sequences run with it"
        self._leave_slot(version)
        self._host_grew = True
        self._on_evicted(version, reason)

    def unstage(self, version: AdapterVersion) -> None:
        """Take it out of host memory."""
        version.staged = None
        self.hosted.discard(version)
        self._on_change(version)

    def drop(self, version: AdapterVersion, reason: str) -> None:
        """Take it out of its slot and of host memory."""
        if version.weights is not None:
            self.demote(version, reason)
        self.unstage(version)
        self.pinned.discard(version)
        self._on_change(version)
        self._rank.pop(version, None)
        if version is self._reserved:
            self._reserved = None

    def close(self) -> None:
        """Give the slots back to the base, which other engines may share; nothing is placed any
        more."""
        self._slots = 0
        for version in [v for v in self.resident if not v.running]:
            self._leave_slot(version)

    def trim(self) -> None:
        """Bring host memory below its budget. Versions that wait for a slot stay, within it,
        longest."""
        if not self._host_grew:
            return
        counted = [v for v in self.host_only if v is not self._reserved]
        over = sum(v.host_bytes for v in counted) - self._host_budget
        for version in sorted((v for v in counted if not v.is_kept_staged), key=self._worth):
            if over <= 0:
                break
            over -= version.host_bytes
            self.unstage(version)
        self._host_grew = over > 0  # what is being brought in is left for the next time

    def _leave_slot(self, version: AdapterVersion) -> None:
        assert version.weights is not None
        self._base.remove_adapter(version.weights)
        version.weights = None
        self.resident.discard(version)
        self._on_change(version)

    def _worth(self, version: AdapterVersion) -> tuple[int, int]:
        return -self._rank.get(version, _UNWANTED), version.last_used

    def _before(self, version: AdapterVersion) -> AdapterVersion | None:
        """The reserved version while it is staged, waits for room, and is wanted more: no one else
        may take that, or large adapters would starve."""
        first = self._reserved
        if first is None or first is version or first.staged is None or first.weights is not None:
            return None
        return (
            first if self._rank.get(first, _UNWANTED) < self._rank.get(version, _UNWANTED) else None
        )

    def _movable(self, version: AdapterVersion) -> list[AdapterVersion]:
        rank = self._rank.get(version, _UNWANTED)
        return [
            v
            for v in self.resident
            if v not in self.pinned and self._rank.get(v, _UNWANTED) >= rank
        ]

    def _within(self, count: int, size: int) -> bool:
        """Whether that is in the budget, and in what the device is known to have."""
        short = size >= self._short_of and time.monotonic() < self._short_until
        return not short and self._within_budget(count, size)

    def _within_budget(self, count: int, size: int) -> bool:
        return count <= self._slots and (not self._device_budget or size <= self._device_budget)
