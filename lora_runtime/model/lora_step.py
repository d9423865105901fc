"""How a step's rows take adapters from the slot table: what fused linear maps read while a forward runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from ..kernels.grouped import ModuleGroup
from ..kernels.plan import LoraPlan
from ..kernels.slot_table import SlotTable
from .placement import SlotAdapter

if TYPE_CHECKING:
    from ..base import BaseModel

UpdateGroup = Callable[[torch.Tensor, torch.Tensor, ModuleGroup, LoraPlan, SlotTable], None]


@dataclass(frozen=True)
class LoraStep:
    """`plan`: of all rows; `head`: of the rows that sample, which the lm_head gets; None where no adapter is theirs."""

    update_group: UpdateGroup
    table: SlotTable
    plan: LoraPlan | None
    head: LoraPlan | None
    touched: Collection[str] | None = None
    """Modules that the step's adapters change; None where that may be any, as in a graph that outlives them."""
    arriving: Sequence[SlotAdapter] = ()
    """Adapters whose copies to the device may still be on their way."""

    @classmethod
    def of(cls, base: BaseModel, plan: LoraPlan | None, head: LoraPlan | None, touched: Collection[str] | None = None,
           arriving: Sequence[SlotAdapter] = ()) -> Self:
        """With the base's slots."""
        assert base.placer is not None
        assert base.state.kernels.update_group is not None
        return cls(base.state.kernels.update_group, base.placer.table, plan, head, touched, arriving)

    def update(
        self, y: torch.Tensor, x: torch.Tensor, group: ModuleGroup, names: Sequence[str], layer: int | None, head: bool
    ) -> None:
        """Into `y` (T, sum of outs) in place, from `x` (T, in)."""
        plan = self.head if head else self.plan
        if plan is None or (self.touched is not None and not any(name in self.touched for name in names)):
            return
        for adapter in self.arriving:
            adapter.wait(layer)
        self.update_group(y, x, group, plan, self.table)
