"""What a stage is given, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from benchmarks.gpu.machine import Ceilings

Row = dict[str, Any]
"""One result: `name` tells it from the stage's others; `good` is there where it can be wrong;
numbers say their units in their names."""


def failed(row: Row) -> bool:
    """Whether what the row is of has raised: its `error` is then a text, and not how far a result
    is off."""
    return isinstance(row.get("error"), str)


class Unavailable(Exception):
    """A stage lacks something that this machine or this call does not have; the message says what."""


@dataclass(frozen=True)
class Context:
    """A stage's run. `real`: on a GPU; else the same at tiny sizes, in Triton's interpreter, and
    times mean nothing."""

    stage: str
    device_name: str
    """cuda or cpu"""
    repeats: int
    out: Path
    """A directory for files that are to come back."""
    carried: Path
    """The directory of what was carried here: wheels, parts of the real base, a Triton cache."""
    found: Mapping[str, Sequence[Row]]
    """Rows of the stages before this one, and of this one what an earlier lease left."""
    send: Callable[[Row], None]
    deadline: float
    """On time.monotonic()'s clock."""

    @property
    def real(self) -> bool:
        return self.device_name == "cuda"

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device(self.device_name, 0) if self.real else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of weights: the interpreter computes in float32 what a GPU computes in bfloat16."""
        import torch

        return torch.bfloat16 if self.real else torch.float32

    def emit(self, name: str, **values: Any) -> None:
        """Keep a row, at once."""
        self.send({"name": name, **values})

    def has(self, name: str) -> bool:
        """Whether an earlier lease left this row: then it need not be measured again."""
        return any(
            row["name"] == name and not failed(row) and "left_out" not in row
            for row in self.found.get(self.stage, ())
        )

    def seconds_left(self) -> float:
        """Until the stage is cut off."""
        return self.deadline - time.monotonic()

    def ceilings(self) -> Ceilings:
        """As the stage `environment` measured them; where it has not, 1 byte/s and 1 FLOP/s, so
        that shares of them are plainly none."""
        from benchmarks.gpu.machine import Ceilings

        rows = {row["name"]: row for row in self.found.get("environment", ())}
        if not {"read", "product"} <= rows.keys():
            return Ceilings(1, 1)
        return Ceilings(rows["read"]["bytes_per_s"], rows["product"]["flop_per_s"])
