"""Paged attention in Triton: chunks of a prompt, and decode rows with their keys split among
programs.

Online softmax over blocks of keys as in FlashAttention-2 (arXiv:2307.08691); decode splits the keys
and combines the parts in a second pass as in Flash-Decoding. Query heads that share a key head are
rows of one tile, so that keys and values are read once for all of them. No atomics: a row's result
is the same whatever else is in the batch.
"""

from __future__ import annotations

import torch
import triton
from triton import language as tl

from ..attention import AttentionPlan
from .attention_sums import attend, store
from .attention_tiles import MAX_SPLITS, MIN_SPLIT, Heads, chunk_tile, decode_tile
from .dot import INTERPRETED

_OF_THE_STEP = (
    "query_start",
    "context_lengths",
    "block_tables",
    "table_row",
    "sequences",
    "splits",
)
"""Arguments that change from step to step: kernels compiled for each alignment of them would stall
a running server."""


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: AttentionPlan,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Does what kernels.attention.paged_attention_reference does; reads nothing of the device on
    the host.

    What is launched depends on shapes and on `plan.decode_rows` only. So with fixed buffers of
    decode rows (T = S) the launches can be captured: programs behind a row's own context end at
    once. Products are summed in float32. Head dims may be up to attention_tiles.MAX_DIM.
    """
    q, k_cache, v_cache = (
        t if t.stride(-1) == 1 else t.contiguous() for t in (q, k_cache, v_cache)
    )
    rows, sequences = q.shape[0], plan.context_lengths.shape[0]
    out = q.new_empty(rows, q.shape[1], v_cache.shape[-1])
    heads = Heads(q.shape[1], k_cache.shape[1], q.shape[2], v_cache.shape[2])
    common = (
        q,
        k_cache,
        v_cache,
        plan.query_start,
        plan.context_lengths,
        plan.block_tables,
        scaling,
        window or 0,
        softcap or 0.0,
        out.stride(0),
        q.stride(0),
        q.stride(1),
        k_cache.stride(0),
        k_cache.stride(1),
        v_cache.stride(0),
        v_cache.stride(1),
        plan.block_tables.stride(0),
    )
    switches = {
        "BLOCK_SIZE": plan.block_size,
        "WINDOWED": window is not None,
        "CAPPED": softcap is not None,
        "INTERPRETED": INTERPRETED,
    }
    decode = sequences if rows == sequences else plan.decode_rows
    if rows > sequences:
        tile = chunk_tile(heads, q.dtype)
        grid = (rows // tile.queries + sequences, heads.kv_heads * tile.parts)
        _chunk_kernel[grid](
            out,
            *common,
            sequences,
            **switches,
            **tile.constants(heads),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    if decode != 0:
        _decode(out, common, switches, heads, plan, window)
    return out


def _decode(
    out: torch.Tensor,
    common: tuple[object, ...],
    switches: dict[str, int],
    heads: Heads,
    plan: AttentionPlan,
    window: int | None,
) -> None:
    tile = decode_tile(heads, out.dtype)
    sequences, width = plan.block_tables.shape
    splits = tile.most_splits(width * plan.block_size, window)
    # Where every row has one split, the first pass writes the result itself and these are not
    # touched.
    parts = out.new_empty((sequences, heads.heads, splits, heads.dim_v), dtype=torch.float32)
    sums = out.new_empty((sequences, heads.heads, splits, 2), dtype=torch.float32)
    programs = tile.split_programs(splits, sequences, heads.kv_heads)
    _decode_kernel[(heads.kv_heads * tile.parts, programs, sequences)](
        out,
        *common,
        parts,
        sums,
        splits,
        **switches,
        **tile.constants(heads),
        MIN_SPLIT=MIN_SPLIT,
        MAX_SPLITS=MAX_SPLITS,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    if splits > 1:
        _combine_kernel[(heads.heads, sequences)](
            out,
            parts,
            sums,
            plan.query_start,
            plan.context_lengths,
            window or 0,
            out.stride(0),
            splits,
            WINDOWED=window is not None,
            HEADS=heads.heads,
            DV=heads.dim_v,
            BLOCK_DV=tile.block_dv,
            BLOCK_N=tile.keys,
            MIN_SPLIT=MIN_SPLIT,
            MAX_SPLITS=MAX_SPLITS,
            num_warps=4,
        )


@triton.jit(do_not_specialize=_OF_THE_STEP)
def _chunk_kernel(
    out,
    q,
    k_cache,
    v_cache,
    query_start,
    context_lengths,
    block_tables,
    scaling,
    window,
    softcap,
    out_row,
    q_row,
    q_head,
    k_slot,
    k_head,
    v_slot,
    v_head,
    table_row,
    sequences,
    BLOCK_SIZE: tl.constexpr,
    WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr,
    INTERPRETED: tl.constexpr,
    GROUP: tl.constexpr,
    PACK: tl.constexpr,
    PARTS: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """A tile: up to BLOCK_M // PACK queries of one sequence, in PACK heads of one key head."""
    QUERIES: tl.constexpr = BLOCK_M // PACK
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # those with the most keys first
    sequence = _sequence_of(tile, query_start, sequences, QUERIES)
    start = tl.load(query_start + sequence)
    count = tl.load(query_start + sequence + 1) - start
    first = (tile - start // QUERIES - sequence) * QUERIES
    if (count > 1) & (first < count):
        kv_head, heads, rows, kept = _tile_rows(
            tl.program_id(1), GROUP, PACK, PARTS, BLOCK_M, QUERIES
        )
        queries = first + rows
        kept &= queries < count
        before = tl.load(context_lengths + sequence) - count
        positions = tl.where(kept, before + queries, -1)
        dims = tl.arange(0, BLOCK_D)
        q_rows = q + (start + queries).to(tl.int64) * q_row + heads * q_head
        read_q = kept[:, None] & (dims < D)[None, :]
        tile_q = tl.load(q_rows[:, None] + dims[None, :], mask=read_q, other=0.0)
        table = block_tables + sequence.to(tl.int64) * table_row
        k_base, v_base = k_cache + kv_head * k_head, v_cache + kv_head * v_head
        acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
        top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        last = before + tl.minimum(first + QUERIES, count)
        least = tl.maximum(before + first - window + 1, 0) if WINDOWED else 0
        if WINDOWED:
            begin = least // BLOCK_N * BLOCK_N
        else:  # blocks that all queries see whole need no mask
            begin = (before + first + 1) // BLOCK_N * BLOCK_N
            acc, top, total = attend(
                acc,
                top,
                total,
                tile_q,
                positions,
                k_base,
                v_base,
                table,
                0,
                begin,
                least,
                scaling,
                window,
                softcap,
                k_slot,
                v_slot,
                BLOCK_SIZE,
                False,
                False,
                False,
                CAPPED,
                INTERPRETED,
                D,
                DV,
                BLOCK_N,
                BLOCK_D,
                BLOCK_DV,
            )
        acc, top, total = attend(
            acc,
            top,
            total,
            tile_q,
            positions,
            k_base,
            v_base,
            table,
            begin,
            last,
            least,
            scaling,
            window,
            softcap,
            k_slot,
            v_slot,
            BLOCK_SIZE,
            True,
            WINDOWED,
            False,
            CAPPED,
            INTERPRETED,
            D,
            DV,
            BLOCK_N,
            BLOCK_D,
            BLOCK_DV,
        )
        if (
            tl.max(tl.max((acc != acc).to(tl.int32), 1), 0) > 0
        ):  # perhaps of what a row does not see
            acc, top, total = attend(
                tl.zeros((BLOCK_M, BLOCK_DV), tl.float32),
                tl.full((BLOCK_M,), float("-inf"), tl.float32),
                tl.zeros((BLOCK_M,), tl.float32),
                tl.load(q_rows[:, None] + dims[None, :], mask=read_q, other=0.0),
                positions,
                k_base,
                v_base,
                table,
                least // BLOCK_N * BLOCK_N,
                last,
                least,
                scaling,
                window,
                softcap,
                k_slot,
                v_slot,
                BLOCK_SIZE,
                True,
                WINDOWED,
                True,
                CAPPED,
                INTERPRETED,
                D,
                DV,
                BLOCK_N,
                BLOCK_D,
                BLOCK_DV,
            )
        store(
            out,
            (start + queries).to(tl.int64) * out_row + heads * DV,
            acc,
            total,
            kept,
            DV,
            BLOCK_DV,
        )


@triton.jit(do_not_specialize=_OF_THE_STEP)
def _decode_kernel(
    out,
    q,
    k_cache,
    v_cache,
    query_start,
    context_lengths,
    block_tables,
    scaling,
    window,
    softcap,
    out_row,
    q_row,
    q_head,
    k_slot,
    k_head,
    v_slot,
    v_head,
    table_row,
    parts,
    sums,
    splits,
    BLOCK_SIZE: tl.constexpr,
    WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr,
    INTERPRETED: tl.constexpr,
    GROUP: tl.constexpr,
    PACK: tl.constexpr,
    PARTS: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """Program (head block, i, row): the row's splits i, i + programs, ..., in PACK heads of one key
    head.

    Stores the result, or each split's part with the sums to combine it by.
    """
    sequence = tl.program_id(2)
    row = tl.load(query_start + sequence)
    single = tl.load(query_start + sequence + 1) - row == 1
    context = tl.load(context_lengths + sequence)
    begin, size, count = _splits(context, window, WINDOWED, BLOCK_N, MIN_SPLIT, MAX_SPLITS)
    if single & (tl.program_id(1) < count):
        kv_head, heads, _, kept = _tile_rows(tl.program_id(0), GROUP, PACK, PARTS, BLOCK_M, 1)
        positions = tl.where(kept, context - 1, -1)
        dims = tl.arange(0, BLOCK_D)
        q_rows = q + row.to(tl.int64) * q_row + heads * q_head
        tile_q = tl.load(
            q_rows[:, None] + dims[None, :], mask=kept[:, None] & (dims < D)[None, :], other=0.0
        )
        table = block_tables + sequence.to(tl.int64) * table_row
        all_heads = tl.num_programs(0) // PARTS * GROUP
        for split in range(tl.program_id(1), count, tl.num_programs(1)):
            acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
            top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
            total = tl.zeros((BLOCK_M,), tl.float32)
            first = begin + split * size
            acc, top, total = attend(
                acc,
                top,
                total,
                tile_q,
                positions,
                k_cache + kv_head * k_head,
                v_cache + kv_head * v_head,
                table,
                first,
                tl.minimum(first + size, context),
                context - window,
                scaling,
                window,
                softcap,
                k_slot,
                v_slot,
                BLOCK_SIZE,
                True,
                WINDOWED,
                False,
                CAPPED,
                INTERPRETED,
                D,
                DV,
                BLOCK_N,
                BLOCK_D,
                BLOCK_DV,
            )
            if count == 1:
                store(out, row.to(tl.int64) * out_row + heads * DV, acc, total, kept, DV, BLOCK_DV)
            else:
                at = (sequence.to(tl.int64) * all_heads + heads) * splits + split
                dims_v = tl.arange(0, BLOCK_DV)
                there = kept[:, None] & (dims_v < DV)[None, :]
                tl.store(parts + at[:, None] * DV + dims_v[None, :], acc, mask=there)
                tl.store(sums + at * 2, top, mask=kept)
                tl.store(sums + at * 2 + 1, total, mask=kept)


@triton.jit(do_not_specialize=_OF_THE_STEP)
def _combine_kernel(
    out,
    parts,
    sums,
    query_start,
    context_lengths,
    window,
    out_row,
    splits,
    WINDOWED: tl.constexpr,
    HEADS: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """A row's head from the parts of its splits."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    row = tl.load(query_start + sequence)
    single = tl.load(query_start + sequence + 1) - row == 1
    context = tl.load(context_lengths + sequence)
    _, _, count = _splits(context, window, WINDOWED, BLOCK_N, MIN_SPLIT, MAX_SPLITS)
    if single & (count > 1):
        split, dims = tl.arange(0, MAX_SPLITS), tl.arange(0, BLOCK_DV)
        at = (sequence.to(tl.int64) * HEADS + head) * splits + split
        top = tl.load(sums + at * 2, mask=split < count, other=float("-inf"))
        weights = tl.exp2(top - tl.max(top, 0))
        total = tl.sum(weights * tl.load(sums + at * 2 + 1, mask=split < count, other=0.0), 0)
        kept = (split < count)[:, None] & (dims < DV)[None, :]
        part = tl.load(parts + at[:, None] * DV + dims[None, :], mask=kept, other=0.0)
        result = tl.sum(weights[:, None] * part, 0) / total
        tl.store(
            out + row.to(tl.int64) * out_row + head * DV + dims,
            result.to(out.dtype.element_ty),
            mask=dims < DV,
        )


@triton.jit
def _sequence_of(tile, query_start, sequences, QUERIES: tl.constexpr):
    """Sequence i has the tiles from query_start[i] // QUERIES + i on: never too few, and found
    without a list."""
    low, high = 0, sequences
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_start + middle) // QUERIES + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _tile_rows(
    head_block,
    GROUP: tl.constexpr,
    PACK: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """A tile's key head, and per row its head, its query, and whether there is such a row."""
    kv_head = (head_block // PARTS).to(tl.int64)
    rows = tl.arange(0, BLOCK_M)
    in_group = head_block % PARTS * PACK + rows % PACK
    return (
        kv_head,
        kv_head * GROUP + in_group,
        rows // PACK,
        (rows < QUERIES * PACK) & (in_group < GROUP),
    )


@triton.jit
def _splits(
    context,
    window,
    WINDOWED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """(first key, keys per split, splits) of a row, by its own context alone."""
    begin = tl.maximum(context - window, 0) // BLOCK_N * BLOCK_N if WINDOWED else 0
    keys = context - begin
    size = tl.maximum(tl.cdiv(tl.cdiv(keys, MAX_SPLITS), BLOCK_N) * BLOCK_N, MIN_SPLIT)
    return begin, size, tl.maximum(tl.cdiv(keys, size), 1)
