"""h = A x of every pair of a plan, as partial sums over the inputs."""

from __future__ import annotations

import triton
import triton.language as tl

from .dot import dot
from .slot_lookup import A, address, ranks_before


@triton.jit
def _pair(rows, start, slot, hidden, pair, pairs):
    """Rows (0: unused, or behind the last), first row, slot and place; loads that do not wait for
    each other."""
    there = pair < pairs
    return (
        tl.load(rows + pair, there, 0),
        tl.load(start + pair, there, 0),
        tl.load(slot + pair, there, 0),
        tl.load(hidden + pair, there, 0),
    )


@triton.jit(do_not_specialize=["modules", "first", "pairs"])
def shrink_kernel(
    x,
    x_stride,
    addresses,
    ranks,
    modules,
    first,
    pair_rows,
    pair_start,
    pair_slot,
    pair_hidden,
    pairs,
    hidden,
    IN: tl.constexpr,
    MODULES: tl.constexpr,
    SPLITS: tl.constexpr,
    PER_SPLIT: tl.constexpr,
    TYPE: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    INPUTS: tl.constexpr,
    RANK_PROGRAMS: tl.constexpr,
    LOOP: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Program (i, module and split, j): pair i, or with LOOP i, i + programs, ..., of which rank
    blocks j, j + RANK_PROGRAMS, ..., of one partial sum."""
    pair = tl.program_id(0)
    rows, start, slot, place = _pair(pair_rows, pair_start, pair_slot, pair_hidden, pair, pairs)
    if LOOP:
        while rows > 0:
            _shrink_pair(
                x,
                x_stride,
                addresses,
                ranks,
                modules,
                first,
                rows,
                start,
                slot,
                hidden + place,
                IN,
                MODULES,
                SPLITS,
                PER_SPLIT,
                TYPE,
                ROWS,
                RANKS,
                INPUTS,
                RANK_PROGRAMS,
                INTERPRETED,
            )
            pair += tl.num_programs(0)
            rows, start, slot, place = _pair(
                pair_rows, pair_start, pair_slot, pair_hidden, pair, pairs
            )
    elif rows > 0:
        _shrink_pair(
            x,
            x_stride,
            addresses,
            ranks,
            modules,
            first,
            rows,
            start,
            slot,
            hidden + place,
            IN,
            MODULES,
            SPLITS,
            PER_SPLIT,
            TYPE,
            ROWS,
            RANKS,
            INPUTS,
            RANK_PROGRAMS,
            INTERPRETED,
        )


@triton.jit
def _shrink_pair(
    x,
    x_stride,
    addresses,
    ranks,
    modules,
    first,
    rows,
    start,
    slot,
    out,
    IN: tl.constexpr,
    MODULES: tl.constexpr,
    SPLITS: tl.constexpr,
    PER_SPLIT: tl.constexpr,
    TYPE: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    INPUTS: tl.constexpr,
    RANK_PROGRAMS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    module, split = tl.program_id(1) // SPLITS, tl.program_id(1) % SPLITS
    has_a, a = address(addresses, modules, slot, A, first + module, TYPE)
    rank = tl.load(ranks + slot * modules + first + module)
    before = ranks_before(module, slot, ranks, modules, first, MODULES)
    out += (before.to(tl.int64) * SPLITS + split * rank) * rows
    row, r, k = tl.arange(0, ROWS), tl.arange(0, RANKS), tl.arange(0, INPUTS)
    x_rows = x + (start + row).to(tl.int64)[:, None] * x_stride
    for r0 in range(tl.program_id(2) * RANKS, tl.where(has_a, rank, 0), RANK_PROGRAMS * RANKS):
        sums = tl.zeros((ROWS, RANKS), tl.float32)
        for k0 in range(split * PER_SPLIT, min((split + 1) * PER_SPLIT, IN), INPUTS):
            inside = (k0 + k < IN)[None, :]
            left = tl.load(x_rows + (k0 + k)[None, :], (row < rows)[:, None] & inside, 0)
            right = tl.load(
                a + (r0 + r)[:, None] * IN + (k0 + k)[None, :], (r0 + r < rank)[:, None] & inside, 0
            )
            sums = dot(left, tl.trans(right), sums, INTERPRETED)
        there = (row < rows)[:, None] & (r0 + r < rank)[None, :]
        tl.store(out + row[:, None] * rank + (r0 + r)[None, :], sums, there)
