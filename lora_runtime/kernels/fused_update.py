"""The change that a step's adapters make to a group of modules of one input: what is computed, in torch.

Weights are found through the slot table, rows through a plan; the Triton kernels have the same signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from .plan import LoraPlan
from .updates import ModuleDelta, keep

if TYPE_CHECKING:
    from .slot_table import SlotTable


@dataclass(frozen=True)
class ModuleGroup:
    """Neighbouring modules of the slot table that read the same x; their outputs lie side by side in one y."""

    first: int
    """Index of the first module in the table; it has the modules first .. first + len(outs) - 1"""
    in_features: int
    outs: tuple[int, ...]
    """y is (T, sum(outs))"""
    base_bias: torch.Tensor | None = None
    """(sum(outs),) of the base, what DoRA must not scale"""

    @cached_property
    def width(self) -> int:
        return sum(self.outs)


def check_group(y: torch.Tensor, x: torch.Tensor, group: ModuleGroup, table: SlotTable) -> None:
    """Raises ValueError for arguments that no implementation of update_group takes."""
    if y.shape != (x.shape[0], group.width) or x.shape[1] != group.in_features:
        raise ValueError(
            f"y {tuple(y.shape)}, x {tuple(x.shape)}: not of {group.in_features} inputs and {group.outs} outputs")
    if y.stride(1) != 1 or x.stride(1) != 1:
        raise ValueError("rows of y and x must be contiguous")
    if x.dtype != table.dtype:
        raise ValueError(f"x is {x.dtype}, the adapters are {table.dtype}")
    if group.base_bias is not None and (len(group.base_bias) != group.width or not group.base_bias.is_contiguous()):
        raise ValueError(f"the base's bias {tuple(group.base_bias.shape)} is not that of {group.outs} outputs")


def update_group_reference(
    y: torch.Tensor, x: torch.Tensor, group: ModuleGroup, plan: LoraPlan, table: SlotTable
) -> None:
    """`y` (T, sum(outs)) = the base's products of `x` (T, in) → the adapters', in place.

    Per row and module, with pairs (slot s, weight w) in order, in float32 and rounded once:
    y = bias0 + f * (y - bias0) + sum w * (scaling_s * B_s (A_s x) + bias_s + dense_s x),
    f = 1 + sum w * gain_s - sum w * [s has dense]; where f is 0 the old value goes even if it is not finite.
    y and x may be views of wider rows. Raises ValueError for shapes and types that do not fit.
    """
    check_group(y, x, group, table)
    for start, end, pairs in plan.tiles():
        rows, column = x[start:end].float(), 0
        for module, out in enumerate(group.outs, group.first):
            columns = slice(column, column + out)
            column += out
            deltas = [(delta, w) for s, w in pairs if (delta := table.tensors(s, module)) is not None]
            if deltas:
                bias = None if group.base_bias is None else group.base_bias[columns].float()
                y[start:end, columns] = _updated(y[start:end, columns].float(), rows, deltas, bias).to(y.dtype)


def _updated(y: torch.Tensor, x: torch.Tensor, deltas: list[tuple[ModuleDelta, float]], bias: torch.Tensor | None
             ) -> torch.Tensor:
    factor, added = torch.ones(y.shape[1], device=y.device), torch.zeros_like(y)
    for delta, weight in deltas:
        if delta.a is not None and delta.b is not None:
            added += weight * delta.scaling * (x @ delta.a.float().t() @ delta.b.float().t())
        if delta.bias is not None:
            added += weight * delta.bias
        if delta.dense is not None:
            added += weight * (x @ delta.dense.float().t())
            factor -= weight
        elif delta.gain is not None:
            factor += weight * delta.gain
    if not any(delta.rescales for delta, _ in deltas):
        return y + added
    base = torch.zeros_like(factor) if bias is None else bias
    return base + keep(factor, y - base) + added
