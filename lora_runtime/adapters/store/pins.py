"""Pinned adapters' part of the slots."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...errors import AdapterCapacityError
from .tiers import Tiers
from .version import AdapterVersion


def check_pins(
    tiers: Tiers,
    adapter_id: str,
    versions: Sequence[AdapterVersion],
    leaving: Sequence[AdapterVersion],
    share: float,
) -> None:
    """Check that what is pinned, with these versions and without those `leaving`, takes at most
    `share` of the slots and of their bytes, or no more than now. Raises AdapterCapacityError."""
    slots, budget = tiers.capacity
    was, now = tiers.pinned, tiers.pinned.difference(leaving).union(versions)
    if (len(now) > len(was) and len(now) > share * slots) or (
        budget and _bytes(now) > _bytes(was) and _bytes(now) > share * budget
    ):
        raise AdapterCapacityError(
            f"adapter {adapter_id!r} cannot be pinned: pinned adapters would take more than "
            f"{share:.0%} of the slots"
        )


def _bytes(versions: Collection[AdapterVersion]) -> int:
    return sum(v.device_bytes for v in versions)
