"""What came of architectures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What became of an architecture."""

    SERVED = "served"
    REFUSED = "refused"
    UNBUILDABLE = "unbuildable"
    WRONG = "wrong"
    """Served, and not as PEFT; or the start failed by something else than a refusal."""


@dataclass(frozen=True)
class Finding:
    """What came of one architecture.

    `reason`: why it is not served, or what is wrong; `targets`: names of modules that LoRA was on;
    `notes`: on what else is to be known, such as modules that take none.
    """

    kind: str
    outcome: Outcome
    reason: str = ""
    backends: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Finding:
        lists = {n: tuple(fields[n]) for n in ("backends", "targets", "notes")}
        return cls(**{**fields, **lists, "outcome": Outcome(fields["outcome"])})
