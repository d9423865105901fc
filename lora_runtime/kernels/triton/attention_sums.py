"""The online softmax that chunks and decode rows share: sums over blocks of keys."""

from __future__ import annotations

import triton
from triton import language as tl

from .dot import dot


@triton.jit
def attend(
    acc,
    top,
    total,
    q,
    positions,
    k_base,
    v_base,
    table,
    begin,
    end,
    least,
    scaling,
    window,
    softcap,
    k_slot,
    v_slot,
    BLOCK_SIZE: tl.constexpr,
    MASKED: tl.constexpr,
    WINDOWED: tl.constexpr,
    CLEAN: tl.constexpr,
    CAPPED: tl.constexpr,
    INTERPRETED: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """Take the keys begin:end into rows' sums. Without MASKED all are whole blocks that every row
    sees.

    With WINDOWED those before `least` are seen by none. With CLEAN a value that is not finite
    reaches the rows that see it and no others, which 0 * NaN would spread to.
    """
    LOG2_E: tl.constexpr = 1.4426950408889634
    dims, dims_v = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    # Rare, and cleaned values need shared memory of their own: nothing is read ahead then.
    for first in tl.range(begin, end, BLOCK_N, num_stages=1 if CLEAN else None):
        keys = first + tl.arange(0, BLOCK_N)
        inside = keys < end
        if WINDOWED:
            inside &= keys >= least
        if MASKED:  # what no row sees is never read: 0 * NaN would spread
            blocks = tl.load(table + keys // BLOCK_SIZE, mask=inside, other=0)
            read_k, read_v = (
                inside[None, :] & (dims < D)[:, None],
                inside[:, None] & (dims_v < DV)[None, :],
            )
        else:
            blocks = tl.load(table + keys // BLOCK_SIZE)
            read_k, read_v = (dims < D)[:, None], (dims_v < DV)[None, :]
        slots = blocks.to(tl.int64) * BLOCK_SIZE + keys % BLOCK_SIZE
        v_at = v_base + slots[:, None] * v_slot + dims_v[None, :]
        if CLEAN:
            sound = tl.abs(tl.load(v_at, mask=read_v, other=0.0)) < float("inf")
            broken = tl.max(tl.where(sound, 0, 1), 1) > 0
            read_v &= ~broken[:, None]
        k = tl.load(k_base + slots[None, :] * k_slot + dims[:, None], mask=read_k, other=0.0)
        scores = dot(q, k, tl.zeros((q.shape[0], BLOCK_N), tl.float32), INTERPRETED)
        if CAPPED:  # tanh(x) = 2 sigmoid(2 x) - 1
            capped = 2 * tl.sigmoid(scores * (scaling * 2 / softcap)) - 1
            scores = capped * (softcap * LOG2_E)
        else:
            scores *= scaling * LOG2_E
        if MASKED:
            seen = inside[None, :] & (keys[None, :] <= positions[:, None])
            if WINDOWED:
                seen &= keys[None, :] > positions[:, None] - window
            scores = tl.where(seen, scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(highest == float("-inf"), 0.0, highest)  # a row that has seen nothing yet
        p = tl.exp2(scores - base[:, None])
        fade = tl.exp2(top - base)
        if CLEAN:
            p = tl.where(seen & broken[None, :], float("nan"), p)
        v = tl.load(v_at, mask=read_v, other=0.0)
        acc = dot(p.to(v.dtype), v, acc * fade[:, None], INTERPRETED)
        total = total * fade + tl.sum(p, 1)
        top = highest
    return acc, top, total


@triton.jit
def store(out, offsets, acc, total, kept, DV: tl.constexpr, BLOCK_DV: tl.constexpr):
    """Rows that saw no key become zeros."""
    dims = tl.arange(0, BLOCK_DV)
    result = acc / tl.where(total == 0, 1.0, total)[:, None]
    tl.store(
        out + offsets[:, None] + dims[None, :],
        result.to(out.dtype.element_ty),
        mask=kept[:, None] & (dims < DV)[None, :],
    )
