"""Ops one at a time, with the signatures of the references.

Sampling is called by the engine; the others are what a program runs inside a step, for tests and
benchmarks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from ...modules import ModuleKind
from ..attention import AttentionPlan
from ..lora import LoraSegment
from ..sampling import SampleRow
from ..updates import ModuleDelta
from . import library
from .adapter import CpuAdapter
from .library import SLACK_BYTES, TILE, AttentionShape, Segment, Step, byref, is_bf16, load
from .memory import Arena
from .weights import PackedLinear


def linear(x: torch.Tensor, packed: PackedLinear, out: torch.Tensor | None = None) -> torch.Tensor:
    """x (T, in) → (T, out) float32, from the packed weight and bias."""
    x = x.contiguous()
    y = torch.empty(x.shape[0], packed.n) if out is None else out
    load().lm_gemm(
        is_bf16(x.dtype),
        byref(packed.struct()),
        x.data_ptr(),
        x.shape[0],
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y


def prepare_lora(
    segments: Sequence[LoraSegment], arena: Arena | None = None
) -> tuple[Step, list[object]]:
    """A step with these segments alone, and what must live as long as it."""
    # The scaling goes in as the rows' weight: the program multiplies an adapter's own by it.
    deltas = [
        ModuleDelta(ModuleKind.LINEAR, len(s.b), s.a.contiguous(), s.b.contiguous())
        for s in segments
    ]
    adapters = [CpuAdapter({"": delta}, {"": 0}, arena) for delta in deltas]
    c_segments = (Segment * len(segments))(
        *(
            Segment(a.address, s.start, s.end, s.scaling, a.kinds)
            for a, s in zip(adapters, segments, strict=True)
        )
    )
    step = Step(
        segments=len(segments),
        segment=ctypes.addressof(c_segments),
        threads=torch.get_num_threads(),
    )
    return step, [adapters, c_segments]


def run_lora(y: torch.Tensor, x: torch.Tensor, step: Step) -> None:
    """Adds the prepared segments' updates of `x` (T, in) into `y` (T, out), float32."""
    step.rows = x.shape[0]
    load().lm_lora(
        is_bf16(x.dtype), byref(step), x.data_ptr(), x.shape[1], y.data_ptr(), y.shape[1]
    )


def add_lora(y: torch.Tensor, x: torch.Tensor, segments: Sequence[LoraSegment]) -> None:
    """Does what add_lora_reference does, with `y` in float32 whatever the dtype of `x`."""
    step, _kept = prepare_lora(segments)
    run_lora(y, x, step)


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
    """Does what paged_attention_reference does; `plan.block_size` a multiple of TILE."""
    return attend_tiles(
        q,
        tile_keys(k_cache),
        tile_values(v_cache),
        k_cache.shape[1],
        plan,
        dim_v=v_cache.shape[2],
        scaling=scaling,
        window=window,
        softcap=softcap,
    )


def attend_tiles(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    kv_heads: int,
    plan: AttentionPlan,
    *,
    scaling: float,
    dim_v: int | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """The same over caches in the kernels' layout (tile_keys, tile_values)."""
    rows, heads, dim = q.shape
    shape = AttentionShape(heads, kv_heads, dim, dim_v or dim, window or 0, scaling, softcap or 0.0)
    out = q.new_empty(rows, heads, shape.dim_v)
    key_pointers, value_pointers = ((ctypes.c_void_p * 1)(t.data_ptr()) for t in (keys, values))
    step = Step(
        rows=rows,
        sequences=len(plan.context_lengths),
        query_start=plan.query_start.data_ptr(),
        context_lengths=plan.context_lengths.data_ptr(),
        block_tables=plan.block_tables.data_ptr(),
        table_width=plan.block_tables.shape[1],
        block_size=plan.block_size,
        keys=ctypes.addressof(key_pointers),
        values=ctypes.addressof(value_pointers),
        threads=torch.get_num_threads(),
    )
    load().lm_paged_attention(
        is_bf16(q.dtype), byref(step), byref(shape), q.data_ptr(), out.data_ptr()
    )
    return out


def sample_rows(rows: Sequence[SampleRow]) -> list[int]:
    """Draws as sample_rows_reference, -1 included; all rows have one vocabulary."""
    if not rows:
        return []
    vocab = rows[0].logits.shape[0]
    c_rows = (library.SampleRow * len(rows))(
        *(
            library.SampleRow(
                r.logits.data_ptr(), r.temperature, r.top_p, r.min_p, r.u, min(r.top_k, vocab), 0
            )
            for r in rows
        )
    )
    load().lm_sample(c_rows, len(rows), vocab, torch.get_num_threads())
    return [row.token for row in c_rows]


def tile_keys(cache: torch.Tensor) -> torch.Tensor:
    """(slots, kv_heads, d) → the kernels' layout: (slots / TILE, kv_heads, units of d, TILE)."""
    slots, heads, _ = cache.shape
    units = cache.contiguous().view(torch.int32).view(slots // TILE, TILE, heads, -1)
    return _padded(units.permute(0, 2, 3, 1))


def tile_values(cache: torch.Tensor) -> torch.Tensor:
    """(slots, kv_heads, d_v) → (slots / TILE, kv_heads, units of TILE, d_v)."""
    slots, heads, width = cache.shape
    per_unit = 4 // cache.itemsize
    parts = cache.view(slots // TILE, TILE // per_unit, per_unit, heads, width)
    return _padded(parts.permute(0, 3, 1, 4, 2))


def _padded(tiles: torch.Tensor) -> torch.Tensor:
    """The tiles flat, with the bytes behind it that the kernels may read."""
    flat = tiles.contiguous().flatten()
    return torch.cat([flat, flat.new_zeros(SLACK_BYTES // flat.itemsize)])
