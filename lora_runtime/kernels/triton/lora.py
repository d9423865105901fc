"""update_group in Triton: one shrink (h = A x) and one expand (y += B h, and what else an adapter
changes) a group.

The shrink is cut over the inputs into partial sums of its own each, which the expand adds in order:
no atomics, and a row's sums do not depend on its neighbours. Launches depend on shapes and
capacities alone and read nothing on the host, so that they can be captured in a graph. Every weight
is found through the slot table at run time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..fused_update import check_group
from ..plan import DECODE_TILE, LoraPlan, splits
from ..slot_table import ModuleGroup, SlotTable
from .dot import INTERPRETED
from .lora_expand import expand_kernel
from .lora_shrink import shrink_kernel
from .lora_tiles import blocks_of

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def update_group(
    y: torch.Tensor, x: torch.Tensor, group: ModuleGroup, plan: LoraPlan, table: SlotTable
) -> None:
    """Does what update_group_reference in kernels/fused_update.py does: `y` (T, sum(outs)) in
    place, from `x` (T, in).

    Of float16 and bfloat16 weights, h is cut (not rounded: the tensor cores ignore the other bits)
    to the 11 bits of tf32 where it meets B; all sums are float32.
    """
    check_group(y, x, group, table)
    shrink(x, group, plan, table)
    expand(y, x, group, plan, table)


def shrink(x: torch.Tensor, group: ModuleGroup, plan: LoraPlan, table: SlotTable) -> None:
    """Put the partial sums of A x of every pair and module into `plan.hidden`. It needs no y: may
    run beside x W."""
    pairs, blocks = len(plan.pair_slot), blocks_of(plan.tile_size, table.dtype)
    if not pairs:
        return
    parts, inputs = splits(group.in_features, plan.tile_size)
    along = blocks.along(pairs, len(group.outs) * parts * blocks.rank_programs)
    shrink_kernel[(along, len(group.outs) * parts, blocks.rank_programs)](
        x,
        x.stride(0),
        table.addresses,
        table.ranks,
        table.ranks.shape[1],
        group.first,
        plan.pair_rows,
        plan.pair_start,
        plan.pair_slot,
        plan.pair_hidden,
        pairs,
        plan.hidden,
        group.in_features,
        len(group.outs),
        parts,
        inputs,
        _TYPES[table.dtype],
        _rows(plan),
        blocks.rank,
        blocks.inputs,
        blocks.rank_programs,
        blocks.loop,
        INTERPRETED,
        num_warps=blocks.shrink_warps,
        num_stages=blocks.shrink_stages,
    )


def expand(
    y: torch.Tensor, x: torch.Tensor, group: ModuleGroup, plan: LoraPlan, table: SlotTable
) -> None:
    """Add the updates to `y`, from the `plan.hidden` that `shrink` left for the same group."""
    tiles, blocks = len(plan.tile_start), blocks_of(plan.tile_size, table.dtype)
    if not tiles:
        return
    parts, _ = splits(group.in_features, plan.tile_size)
    outputs = sum(triton.cdiv(out, blocks.outputs) for out in group.outs)
    expand_kernel[(blocks.along(tiles, outputs), outputs)](
        y,
        y.stride(0),
        x,
        x.stride(0),
        group.base_bias,
        table.addresses,
        table.ranks,
        table.scalings,
        table.ranks.shape[1],
        group.first,
        plan.tile_rows,
        plan.tile_start,
        plan.pair_offsets,
        tiles,
        plan.pair_slot,
        plan.pair_weight,
        plan.pair_hidden,
        plan.hidden,
        group.in_features,
        group.outs,
        parts,
        _TYPES[table.dtype],
        _rows(plan),
        blocks.outputs,
        blocks.hidden,
        32,
        blocks.loop,
        blocks.expand_stages,
        INTERPRETED,
        num_warps=blocks.expand_warps,
        num_stages=blocks.expand_stages,
    )


def _rows(plan: LoraPlan) -> int:
    return max(DECODE_TILE, triton.next_power_of_2(plan.tile_size))
