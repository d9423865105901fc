"""y += B h, and what else adapters change in a linear map: DoRA's gains, biases, saved weights."""

from __future__ import annotations

import triton
import triton.language as tl

from .dot import dot
from .slot_lookup import BIAS, DENSE, GAIN, B, address, ranks_before


@triton.jit
def _place(block, OUTS: tl.constexpr, OUTPUTS: tl.constexpr):
    """Place of a block of a group's y: its module, that one's first column in y and outputs, its
    first of them."""
    module, column, out, n0 = 0, 0, OUTS[0], block * OUTPUTS
    end = 0
    for m in tl.static_range(len(OUTS) - 1):
        end += (OUTS[m] + OUTPUTS - 1) // OUTPUTS
        later = block >= end
        module, out = tl.where(later, m + 1, module), tl.where(later, OUTS[m + 1], out)
        column += tl.where(later, OUTS[m], 0)
        n0 = tl.where(later, (block - end) * OUTPUTS, n0)
    return module, column, out, n0


@triton.jit
def _tile(rows, start, offsets, tile, tiles):
    """Rows (0: unused, or behind the last), first row, first pair and the end of the pairs."""
    there = tile < tiles
    return (
        tl.load(rows + tile, there, 0),
        tl.load(start + tile, there, 0),
        tl.load(offsets + tile, there, 0),
        tl.load(offsets + tile + 1, there, 0),
    )


@triton.jit(do_not_specialize=["modules", "first", "tiles"])
def expand_kernel(
    y,
    y_stride,
    x,
    x_stride,
    base_bias,
    addresses,
    ranks,
    scalings,
    modules,
    first,
    tile_rows,
    tile_start,
    pair_offsets,
    tiles,
    pair_slot,
    pair_weight,
    pair_hidden,
    hidden,
    IN: tl.constexpr,
    OUTS: tl.constexpr,
    SPLITS: tl.constexpr,
    TYPE: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    RANKS: tl.constexpr,
    INPUTS: tl.constexpr,
    LOOP: tl.constexpr,
    STAGES: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Program (i, block of one module's outputs): tile i, or with LOOP i, i + programs, ..."""
    tile = tl.program_id(0)
    rows, start, pair, end = _tile(tile_rows, tile_start, pair_offsets, tile, tiles)
    if LOOP:
        while rows > 0:
            _expand_tile(
                y,
                y_stride,
                x,
                x_stride,
                base_bias,
                addresses,
                ranks,
                scalings,
                modules,
                first,
                rows,
                start,
                pair,
                end,
                pair_slot,
                pair_weight,
                pair_hidden,
                hidden,
                IN,
                OUTS,
                SPLITS,
                TYPE,
                ROWS,
                OUTPUTS,
                RANKS,
                INPUTS,
                STAGES,
                INTERPRETED,
            )
            tile += tl.num_programs(0)
            rows, start, pair, end = _tile(tile_rows, tile_start, pair_offsets, tile, tiles)
    elif rows > 0:
        _expand_tile(
            y,
            y_stride,
            x,
            x_stride,
            base_bias,
            addresses,
            ranks,
            scalings,
            modules,
            first,
            rows,
            start,
            pair,
            end,
            pair_slot,
            pair_weight,
            pair_hidden,
            hidden,
            IN,
            OUTS,
            SPLITS,
            TYPE,
            ROWS,
            OUTPUTS,
            RANKS,
            INPUTS,
            STAGES,
            INTERPRETED,
        )


@triton.jit
def _expand_tile(
    y,
    y_stride,
    x,
    x_stride,
    base_bias,
    addresses,
    ranks,
    scalings,
    modules,
    first,
    rows,
    start,
    pair,
    end,
    pair_slot,
    pair_weight,
    pair_hidden,
    hidden,
    IN: tl.constexpr,
    OUTS: tl.constexpr,
    SPLITS: tl.constexpr,
    TYPE: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    RANKS: tl.constexpr,
    INPUTS: tl.constexpr,
    STAGES: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """All of the tile's pairs, in order."""
    module, column, out, n0 = _place(tl.program_id(1), OUTS, OUTPUTS)
    row, n = tl.arange(0, ROWS), tl.arange(0, OUTPUTS)
    inside = n0 + n < out
    x_rows = x + (start + row).to(tl.int64)[:, None] * x_stride
    at = y + (start + row).to(tl.int64)[:, None] * y_stride + (column + n0 + n)[None, :]
    mask = (row < rows)[:, None] & inside[None, :]
    loaded = tl.load(at, mask, 0)  # on its way while the rest is looked up
    added, factor = tl.zeros((ROWS, OUTPUTS), tl.float32), tl.full((OUTPUTS,), 1.0, tl.float32)
    touched, rescaled = False, False
    for p in range(pair, end):
        slot, weight = tl.load(pair_slot + p), tl.load(pair_weight + p)
        planes = hidden + tl.load(pair_hidden + p)
        has_b, b = address(addresses, modules, slot, B, first + module, TYPE)
        has_bias, bias = address(addresses, modules, slot, BIAS, first + module, tl.float32)
        has_dense, dense = address(addresses, modules, slot, DENSE, first + module, TYPE)
        has_gain, gain = address(addresses, modules, slot, GAIN, first + module, tl.float32)
        rank = tl.load(ranks + slot * modules + first + module)
        scale = weight * tl.load(scalings + slot * modules + first + module)
        planes += (
            ranks_before(module, slot, ranks, modules, first, MODULES=len(OUTS)).to(tl.int64)
            * SPLITS
            * rows
        )
        if has_b:
            b += n0.to(tl.int64) * rank
            if (
                rank % 8 == 0
            ):  # then its rows are read in wide loads, as `rank // 8 * 8` shows the compiler
                added = _add_product(
                    added,
                    b,
                    rank // 8 * 8,
                    planes,
                    rows * rank,
                    scale,
                    rows,
                    inside,
                    SPLITS,
                    ROWS,
                    OUTPUTS,
                    RANKS,
                    STAGES,
                    TYPE,
                )
            else:
                added = _add_product(
                    added,
                    b,
                    rank,
                    planes,
                    rows * rank,
                    scale,
                    rows,
                    inside,
                    SPLITS,
                    ROWS,
                    OUTPUTS,
                    RANKS,
                    STAGES,
                    TYPE,
                )
        if has_bias:
            added += (weight * tl.load(bias + n0 + n, inside, 0))[None, :]
        if has_dense:
            added += weight * _dense_product(
                x_rows,
                dense + n0.to(tl.int64) * IN,
                rows,
                inside,
                IN,
                ROWS,
                OUTPUTS,
                INPUTS,
                INTERPRETED,
            )
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
            kept = factor[None, :] * (old - base[None, :])
            old = base[None, :] + tl.where((factor == 0)[None, :], 0.0, kept)
        tl.store(at, (old + added).to(y.dtype.element_ty), mask)


@triton.jit
def _add_product(
    sums,
    b,
    rank,
    planes,
    plane,
    scale,
    rows,
    inside,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    RANKS: tl.constexpr,
    STAGES: tl.constexpr,
    TYPE: tl.constexpr,
):
    """sums + scale * h B^T, h of the sum of `planes`; b at the block's first row."""
    row, r, n = tl.arange(0, ROWS), tl.arange(0, RANKS), tl.arange(0, OUTPUTS)
    for r0 in tl.range(0, rank, RANKS, num_stages=STAGES):
        there = (r0 + r < rank)[None, :]
        h = tl.zeros((ROWS, RANKS), tl.float32)
        for split in tl.static_range(SPLITS):
            at = planes + split * plane + row[:, None] * rank + (r0 + r)[None, :]
            h += tl.load(at, (row < rows)[:, None] & there, 0)
        right = tl.load(b + n[:, None] * rank + (r0 + r)[None, :], inside[:, None] & there, 0)
        # tf32 holds every value of a 16-bit B. h is cut to its 11 bits: the tensor cores ignore the
        # rest of a float32, they do not round it. That is at most 2^-10 of h: a quarter of what
        # rounding y to bfloat16 may cost, twice float16's.
        sums = tl.dot(
            scale * h,
            tl.trans(right.to(tl.float32)),
            sums,
            input_precision="ieee" if TYPE == tl.float32 else "tf32",  # noqa: SIM300
        )
    return sums


@triton.jit
def _dense_product(
    x_rows,
    dense,
    rows,
    inside,
    IN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
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
