"""The change that a step's adapters make to a group of modules of one input: what is computed, in
torch.

Weights are found through the slot table, rows through a plan; the Triton kernels have the same
signature.
"""

from __future__ import annotations

import torch

from .plan import LoraPlan
from .slot_table import ModuleGroup, SlotTable
from .updates import apply_linear


def check_group(y: torch.Tensor, x: torch.Tensor, group: ModuleGroup, table: SlotTable) -> None:
    """Raises ValueError for arguments that no implementation of update_group takes."""
    if y.shape != (x.shape[0], group.width) or x.shape[1] != group.in_features:
        raise ValueError(
            f"y {tuple(y.shape)}, x {tuple(x.shape)}: not of {group.in_features} inputs and {group.outs} outputs"
        )
    if y.stride(1) != 1 or x.stride(1) != 1:
        raise ValueError("rows of y and x must be contiguous")
    if x.dtype != table.dtype:
        raise ValueError(f"x is {x.dtype}, the adapters are {table.dtype}")
    if group.base_bias is not None and (
        len(group.base_bias) != group.width or not group.base_bias.is_contiguous()
    ):
        raise ValueError(
            f"the base's bias {tuple(group.base_bias.shape)} is not that of {group.outs} outputs"
        )


def update_group_reference(
    y: torch.Tensor, x: torch.Tensor, group: ModuleGroup, plan: LoraPlan, table: SlotTable
) -> None:
    """`y` (T, sum(outs)) = the base's products of `x` (T, in) → the adapters', in place.

    Per row and module apply_linear of the tile's pairs (slot, weight) in order, in float32 and
    rounded once. y and x may be views of wider rows. Raises ValueError for shapes and types that do
    not fit.
    """
    check_group(y, x, group, table)
    for start, end, pairs in plan.tiles():
        rows, column = x[start:end].float(), 0
        for module, out in enumerate(group.outs, group.first):
            columns = slice(column, column + out)
            column += out
            changes = [
                (delta, w) for s, w in pairs if (delta := table.tensors(s, module)) is not None
            ]
            if changes:
                bias = None if group.base_bias is None else group.base_bias[columns]
                y[start:end, columns] = apply_linear(
                    y[start:end, columns].float(), rows, changes, bias
                ).to(y.dtype)
