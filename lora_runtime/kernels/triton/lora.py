"""update_group in Triton: one shrink (h = A x) and one expand (y += B h, and what else an adapter changes) a group.

The shrink is cut over the inputs into partial sums of its own each, which the expand adds in order: no atomics, and a
row's sums do not depend on its neighbours. Launches depend on shapes and capacities alone and read nothing on the
host, so that they can be captured in a graph. Every weight is found through the slot table at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from ..grouped import ModuleGroup, check_group
from ..plan import DECODE_TILE, LoraPlan, splits
from .dot import INTERPRETED, dot

if TYPE_CHECKING:
    from ..slot_table import SlotTable

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
A, B, GAIN, BIAS, DENSE = (tl.constexpr(i) for i in range(5))
"""Fields of the table's addresses."""
FIELDS = tl.constexpr(5)


@dataclass(frozen=True)
class _Blocks:
    """Of a program: `rank` rows of A over `inputs` at a time in the shrink, `outputs` of y in the expand.

    `rank_programs` share a slot's rank blocks; the expand multiplies `hidden` of h at a time, in `warps`.
    """

    rank: int
    inputs: int
    rank_programs: int
    outputs: int
    hidden: int
    warps: int


# In decode steps a program reads little, so that there are many; behind prefill tiles a program reuses what it reads.
_DECODE = _Blocks(rank=16, inputs=128, rank_programs=4, outputs=64, hidden=32, warps=4)
_PREFILL = _Blocks(rank=32, inputs=128, rank_programs=2, outputs=64, hidden=32, warps=8)
_PREFILL_FLOAT32 = _Blocks(rank=32, inputs=32, rank_programs=2, outputs=64, hidden=32, warps=8)  # no tensor cores


def update_group(y: torch.Tensor, x: torch.Tensor, group: ModuleGroup, plan: LoraPlan, table: SlotTable) -> None:
    """As update_group_reference in kernels/grouped.py: `y` (T, sum(outs)) in place, from `x` (T, in).

    Of float16 and bfloat16 weights, h is rounded to the 11 bits of tf32 where it meets B; all sums are float32.
    """
    check_group(y, x, group, table)
    shrink(x, group, plan, table)
    expand(y, x, group, plan, table)


def shrink(x: torch.Tensor, group: ModuleGroup, plan: LoraPlan, table: SlotTable) -> None:
    """Into `plan.hidden`: the partial sums of A x of every pair and module. It needs no y: may run beside its product."""
    pairs, blocks = len(plan.pair_slot), _blocks(plan, table)
    if not pairs:
        return
    parts, inputs = splits(group.in_features, plan.tile_size)
    _shrink[(pairs, len(group.outs) * parts, blocks.rank_programs)](
        x, x.stride(0), table.addresses, table.ranks, table.ranks.shape[1], group.first,
        plan.pair_start, plan.pair_rows, plan.pair_slot, plan.pair_hidden, plan.hidden,
        group.in_features, len(group.outs), parts, inputs, _TYPES[table.dtype], _rows(plan), blocks.rank,
        blocks.inputs, blocks.rank_programs, INTERPRETED, num_warps=4, num_stages=3)


def expand(y: torch.Tensor, x: torch.Tensor, group: ModuleGroup, plan: LoraPlan, table: SlotTable) -> None:
    """Into `y`, from the `plan.hidden` that `shrink` left for the same group."""
    tiles, blocks = len(plan.tile_start), _blocks(plan, table)
    if not tiles:
        return
    parts, _ = splits(group.in_features, plan.tile_size)
    _expand[(tiles, sum(triton.cdiv(out, blocks.outputs) for out in group.outs))](
        y, y.stride(0), x, x.stride(0), group.base_bias, table.addresses, table.ranks, table.scalings,
        table.ranks.shape[1], group.first, plan.tile_start, plan.tile_rows, plan.pair_offsets, plan.pair_slot,
        plan.pair_weight, plan.pair_hidden, plan.hidden,
        group.in_features, group.outs, parts, _TYPES[table.dtype], _rows(plan), blocks.outputs, blocks.hidden,
        32, INTERPRETED, num_warps=blocks.warps, num_stages=1)


def _blocks(plan: LoraPlan, table: SlotTable) -> _Blocks:
    if plan.tile_size <= DECODE_TILE:
        return _DECODE
    return _PREFILL_FLOAT32 if table.dtype is torch.float32 else _PREFILL


def _rows(plan: LoraPlan) -> int:
    return max(DECODE_TILE, triton.next_power_of_2(plan.tile_size))


@triton.jit
def _address(addresses, modules, slot, field, module, TYPE: tl.constexpr):
    """0, or where the tensor lies: placed adapters are aligned to 256 bytes, which lets loads be wide."""
    at = tl.load(addresses + (slot.to(tl.int64) * FIELDS + field) * modules + module)
    return at != 0, tl.multiple_of(at.to(tl.pointer_type(TYPE)), 16)


@triton.jit
def _hidden_of(module, slot, ranks, modules, first, MODULES: tl.constexpr):
    """The ranks of the group's modules before this one: where the module's part of a pair's `hidden` begins."""
    if MODULES == 1:
        return 0
    before = tl.arange(0, triton.next_power_of_2(MODULES))
    return tl.sum(tl.load(ranks + slot * modules + first + before, before < module, 0))


@triton.jit
def _shrink(
    x, x_stride, addresses, ranks, modules, first, pair_start, pair_rows, pair_slot, pair_hidden, hidden,
    IN: tl.constexpr, MODULES: tl.constexpr, SPLITS: tl.constexpr, PER_SPLIT: tl.constexpr, TYPE: tl.constexpr,
    ROWS: tl.constexpr, RANKS: tl.constexpr, INPUTS: tl.constexpr, RANK_PROGRAMS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Program (pair, module and split, i): rank blocks i, i + RANK_PROGRAMS, ... of one partial sum."""
    pair = tl.program_id(0)
    module, split = tl.program_id(1) // SPLITS, tl.program_id(1) % SPLITS
    # Loads that do not wait for each other come before the first branch on any of them.
    rows, start = tl.load(pair_rows + pair), tl.load(pair_start + pair)
    slot, place = tl.load(pair_slot + pair), tl.load(pair_hidden + pair)
    if rows == 0:
        return
    has_a, a = _address(addresses, modules, slot, A, first + module, TYPE)
    rank = tl.load(ranks + slot * modules + first + module)
    before = _hidden_of(module, slot, ranks, modules, first, MODULES)
    if not has_a:
        return
    out = hidden + place + (before.to(tl.int64) * SPLITS + split * rank) * rows
    row, r, k = tl.arange(0, ROWS), tl.arange(0, RANKS), tl.arange(0, INPUTS)
    x_rows = x + (start + row).to(tl.int64)[:, None] * x_stride
    for r0 in range(tl.program_id(2) * RANKS, rank, RANK_PROGRAMS * RANKS):
        sums = tl.zeros((ROWS, RANKS), tl.float32)
        for k0 in range(split * PER_SPLIT, min((split + 1) * PER_SPLIT, IN), INPUTS):
            inside = (k0 + k < IN)[None, :]
            left = tl.load(x_rows + (k0 + k)[None, :], (row < rows)[:, None] & inside, 0)
            right = tl.load(a + (r0 + r)[:, None] * IN + (k0 + k)[None, :], (r0 + r < rank)[:, None] & inside, 0)
            sums = dot(left, tl.trans(right), sums, INTERPRETED)
        tl.store(out + row[:, None] * rank + (r0 + r)[None, :], sums, (row < rows)[:, None] & (r0 + r < rank)[None, :])


@triton.jit
def _add_product(
    sums, b, rank, planes, plane, scale, rows, inside,
    SPLITS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, RANKS: tl.constexpr, TYPE: tl.constexpr,
):
    """sums + scale * h B^T, h of the sum of `planes`; b at the block's first row."""
    row, r, n = tl.arange(0, ROWS), tl.arange(0, RANKS), tl.arange(0, OUTPUTS)
    for r0 in tl.range(0, rank, RANKS, num_stages=1):
        there = (r0 + r < rank)[None, :]
        h = tl.zeros((ROWS, RANKS), tl.float32)
        for split in tl.static_range(SPLITS):
            at = planes + split * plane + row[:, None] * rank + (r0 + r)[None, :]
            h += tl.load(at, (row < rows)[:, None] & there, 0)
        right = tl.load(b + n[:, None] * rank + (r0 + r)[None, :], inside[:, None] & there, 0)
        # tf32 holds every value of a 16-bit B, and more of h than its type would.
        sums = tl.dot(scale * h, tl.trans(right.to(tl.float32)), sums,
                      input_precision="ieee" if TYPE == tl.float32 else "tf32")
    return sums


@triton.jit
def _dense_product(
    x_rows, dense, rows, inside, IN: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """x W^T with a saved weight; dense at the block's first row."""
    row, n, k = tl.arange(0, ROWS), tl.arange(0, OUTPUTS), tl.arange(0, INPUTS)
    product = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for k0 in tl.range(0, IN, INPUTS, num_stages=1):
        there = (k0 + k < IN)[None, :]
        left = tl.load(x_rows + (k0 + k)[None, :], (row < rows)[:, None] & there, 0)
        right = tl.load(dense + n[:, None] * IN + (k0 + k)[None, :], inside[:, None] & there, 0)
        product = dot(left, tl.trans(right), product, INTERPRETED)
    return product


@triton.jit
def _expand(
    y, y_stride, x, x_stride, base_bias, addresses, ranks, scalings, modules, first,
    tile_start, tile_rows, pair_offsets, pair_slot, pair_weight, pair_hidden, hidden,
    IN: tl.constexpr, OUTS: tl.constexpr, SPLITS: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr, RANKS: tl.constexpr, INPUTS: tl.constexpr, INTERPRETED: tl.constexpr,
):
    """Program (tile, block of one module's outputs): all of the tile's pairs, in order."""
    tile, block = tl.program_id(0), tl.program_id(1)
    rows, start = tl.load(tile_rows + tile), tl.load(tile_start + tile)
    pairs, pairs_end = tl.load(pair_offsets + tile), tl.load(pair_offsets + tile + 1)
    if rows == 0:
        return
    module, column, out, n0 = _place(block, OUTS, OUTPUTS)
    row, n = tl.arange(0, ROWS), tl.arange(0, OUTPUTS)
    inside = n0 + n < out
    x_rows = x + (start + row).to(tl.int64)[:, None] * x_stride
    at = y + (start + row).to(tl.int64)[:, None] * y_stride + (column + n0 + n)[None, :]
    mask = (row < rows)[:, None] & inside[None, :]
    loaded = tl.load(at, mask, 0)  # on its way while the rest is looked up
    added, factor = tl.zeros((ROWS, OUTPUTS), tl.float32), tl.full((OUTPUTS,), 1.0, tl.float32)
    touched, rescaled = False, False
    for pair in range(pairs, pairs_end):
        slot, weight = tl.load(pair_slot + pair), tl.load(pair_weight + pair)
        planes = hidden + tl.load(pair_hidden + pair)
        has_b, b = _address(addresses, modules, slot, B, first + module, TYPE)
        has_bias, bias = _address(addresses, modules, slot, BIAS, first + module, tl.float32)
        has_dense, dense = _address(addresses, modules, slot, DENSE, first + module, TYPE)
        has_gain, gain = _address(addresses, modules, slot, GAIN, first + module, tl.float32)
        rank = tl.load(ranks + slot * modules + first + module)
        scale = weight * tl.load(scalings + slot * modules + first + module)
        before = _hidden_of(module, slot, ranks, modules, first, MODULES=len(OUTS))
        if has_b:
            planes += before.to(tl.int64) * SPLITS * rows
            b += n0.to(tl.int64) * rank
            if rank % 8 == 0:  # then its rows are read in wide loads: `rank // 8 * 8` shows the compiler that they can be
                added = _add_product(added, b, rank // 8 * 8, planes, rows * rank, scale, rows, inside,
                                     SPLITS, ROWS, OUTPUTS, RANKS, TYPE)
            else:
                added = _add_product(added, b, rank, planes, rows * rank, scale, rows, inside,
                                     SPLITS, ROWS, OUTPUTS, RANKS, TYPE)
        if has_bias:
            added += (weight * tl.load(bias + n0 + n, inside, 0))[None, :]
        if has_dense:
            added += weight * _dense_product(
                x_rows, dense + n0.to(tl.int64) * IN, rows, inside, IN, ROWS, OUTPUTS, INPUTS, INTERPRETED)
            factor -= weight
        elif has_gain:
            factor += weight * tl.load(gain + n0 + n, inside, 0)
        touched = touched | has_b | has_bias | has_dense | has_gain
        rescaled = rescaled | has_dense | has_gain
    if touched:
        old = loaded.to(tl.float32)
        if rescaled:
            base = tl.zeros((OUTPUTS,), tl.float32)
            if base_bias is not None:
                base = tl.load(base_bias + column + n0 + n, inside, 0).to(tl.float32)
            kept = tl.where(factor[None, :] == 0, 0.0, factor[None, :] * (old - base[None, :]))
            old = base[None, :] + kept
        tl.store(at, (old + added).to(y.dtype.element_ty), mask)


@triton.jit
def _place(block, OUTS: tl.constexpr, OUTPUTS: tl.constexpr):
    """Of a block of a group's outputs: the module, its first column in y, its outputs, and the block's first of them."""
    module, column, out, n0 = 0, 0, OUTS[0], block * OUTPUTS
    end = 0
    for m in tl.static_range(len(OUTS) - 1):
        end += (OUTS[m] + OUTPUTS - 1) // OUTPUTS
        later = block >= end
        module, out = tl.where(later, m + 1, module), tl.where(later, OUTS[m + 1], out)
        column += tl.where(later, OUTS[m], 0)
        n0 = tl.where(later, (block - end) * OUTPUTS, n0)
    return module, column, out, n0
