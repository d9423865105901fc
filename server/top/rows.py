"""The table of adapters: those that something can be said of come first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loramux.v1 import adapters_pb2 as pb

from .seen import Seen
from .words import name_of, one_line, size

BASE = "(base)"
_VERSION = 8
"""Characters of a version that are shown."""


@dataclass(frozen=True)
class Row:
    """Row of the table, as text."""

    adapter: str
    running: int
    requests: int = 0
    state: str = ""
    version: str = ""
    rank: str = ""
    size: str = ""
    policy: str = ""
    canary: str = ""
    note: str = ""

    @property
    def place(self) -> tuple[int, int, bool, str]:
        """Place among the others, the smallest first."""
        has_more = bool(self.policy or self.canary or self.note)
        return -self.running, -self.requests, not has_more, self.adapter


def rows(seen: Seen) -> list[Row]:
    """Give a row for each adapter and, while it has sequences, for the base."""
    running = {one.adapter_id: one.sequences for one in seen.status.batch.adapters}
    found = [_row(adapter, running.pop(adapter.adapter_id, 0)) for adapter in seen.adapters]
    found += [
        Row(one_line(adapter_id) if adapter_id else BASE, count)
        for adapter_id, count in running.items()
    ]
    return sorted(found, key=lambda row: row.place)


def _row(adapter: pb.Adapter, running: int) -> Row:
    canary = adapter.canary if adapter.HasField("canary") else None
    return Row(
        adapter=one_line(adapter.adapter_id),
        running=running,
        requests=adapter.leases,
        state=name_of(pb.AdapterState, adapter.state),
        version=one_line(adapter.version[:_VERSION]),
        rank=str(adapter.max_rank or ""),
        size=size(adapter.num_bytes) if adapter.num_bytes else "",
        policy=", ".join(_policy(adapter.policy)),
        canary=f"{one_line(canary.version[:_VERSION])} {canary.weight:.0%}" if canary else "",
        note=one_line("; ".join(_notes(adapter))),
    )


def _policy(policy: pb.Policy) -> Iterator[str]:
    """Give what differs from the default."""
    if policy.pinned:
        yield "pinned"
    if policy.HasField("weight") and policy.weight != 1:
        yield f"weight {policy.weight:g}"
    for name in ("max_running", "max_waiting", "tokens_per_minute"):
        if value := getattr(policy, name):
            yield f"{name} {value}"


def _notes(adapter: pb.Adapter) -> Iterator[str]:
    if adapter.error:
        yield adapter.error
    if adapter.canary.error:
        yield f"canary: {adapter.canary.error}"
    if older := len(adapter.older_versions):
        yield f"{older} older"
