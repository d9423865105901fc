"""Adapters of a step's rows, from the slot table: what fused linear maps read in a forward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ...kernels import PlannedKernels
from ...kernels.plan import LoraPlan
from ...kernels.slot_table import ModuleGroup, SlotTable
from ..streams import Side
from .placement import SlotAdapter


@dataclass(frozen=True)
class LinearCall:
    """One call of fused linear maps: place in the table, names, layer (None: behind all layers)."""

    group: ModuleGroup
    names: tuple[str, ...]
    layer: int | None
    head: bool
    """True if it is the lm_head, which gets the rows that sample."""


@dataclass(frozen=True)
class Overlap:
    """Overlap of A x with the base's product: `update_group` in halves, the first on `side`."""

    side: Side
    shrink: Callable[..., None]
    expand: Callable[..., None]


@dataclass(frozen=True)
class LoraStep:
    """Adapters of one step.

    `plan`: of all rows; `head`: of the rows that sample, which the lm_head gets; None where no
    adapter is theirs.
    """

    kernels: PlannedKernels
    table: SlotTable
    plan: LoraPlan | None
    head: LoraPlan | None
    touched: Collection[str] | None = None
    """Modules that the step's adapters change; None where that may be any, as in a graph that
    outlives them."""
    arriving: Sequence[SlotAdapter] = ()
    """Adapters whose copies to the device may still be on their way."""
    overlap: Overlap | None = None
    """Overlap with the base's product; None: A x is computed after it."""

    def begin(self, x: torch.Tensor, call: LinearCall) -> None:
        """Begin the update before the base's product of `x` (T, in)."""
        if self.overlap is None or (plan := self._plan_of(call)) is None:
            return
        self._wait(call)
        with self.overlap.side.fork():
            self.overlap.shrink(x, call.group, plan, self.table)

    def finish(self, y: torch.Tensor, x: torch.Tensor, call: LinearCall) -> None:
        """Finish the update after that product, into `y` (T, sum of outs) in place."""
        if (plan := self._plan_of(call)) is None:
            return
        if self.overlap is not None:
            self.overlap.side.join()
            self.overlap.expand(y, x, call.group, plan, self.table)
        else:
            self._wait(call)
            self.kernels.update_group(y, x, call.group, plan, self.table)

    def _plan_of(self, call: LinearCall) -> LoraPlan | None:
        """Plan of a call's rows; None where nothing is done: no kernel is launched then."""
        if self.touched is not None and not any(name in self.touched for name in call.names):
            return None
        return self.head if call.head else self.plan

    def _wait(self, call: LinearCall) -> None:
        for adapter in self.arriving:
            adapter.wait(call.layer)


class LoraContext:
    """The step that is running, as fused linear maps read it; None: no row has an adapter."""

    def __init__(self) -> None:
        self.step: LoraStep | None = None

    @contextmanager
    def during(self, step: LoraStep | None) -> Iterator[None]:
        """Set the step, and drop it after the forward so that no freed adapter stays reachable."""
        self.step = step
        try:
            yield
        finally:
            self.step = None
