"""The program's ops one at a time, with the signatures of the references: for tests and benchmarks."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from ..attention import AttentionPlan
from ..lora import LoraSegment
from .library import AttentionShape, LoraEntry, Segment, Step, byref, is_bf16, load
from .weights import PackedLinear, pack_lora


def linear(x: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
    """x (T, in) → (T, out) float32, from the packed weight and bias."""
    x = x.contiguous()
    y = torch.empty(x.shape[0], packed.n)
    load().lm_gemm(
        is_bf16(x.dtype), byref(packed.struct()), x.data_ptr(), x.shape[0], y.data_ptr(), torch.get_num_threads())
    return y


def prepare_lora(segments: Sequence[LoraSegment]) -> tuple[Step, list[object]]:
    """A step with these segments alone, and what must live as long as it."""
    packed = [pack_lora(s.a, s.b, s.scaling) for s in segments]
    tables = (LoraEntry * len(segments))(*(p.struct() for p in packed))
    c_segments = (Segment * len(segments))()
    for i, s in enumerate(segments):
        address = ctypes.addressof(tables) + i * ctypes.sizeof(LoraEntry)
        c_segments[i] = Segment(address, s.start, s.end, 1.0, 0)
    step = Step(segments=len(segments), segment=ctypes.addressof(c_segments), threads=torch.get_num_threads())
    return step, [packed, tables, c_segments]


def add_lora(y: torch.Tensor, x: torch.Tensor, segments: Sequence[LoraSegment]) -> None:
    """As add_lora_reference, with `y` in float32 whatever the dtype of `x`."""
    step, _kept = prepare_lora(segments)
    step.rows = x.shape[0]
    load().lm_lora(is_bf16(x.dtype), byref(step), x.data_ptr(), x.shape[1], y.data_ptr(), y.shape[1])


def paged_attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, plan: AttentionPlan, *, scaling: float,
    window: int | None = None, softcap: float | None = None,
) -> torch.Tensor:
    """As paged_attention_reference."""
    rows, heads, dim = q.shape
    shape = AttentionShape(
        heads, k_cache.shape[1], dim, v_cache.shape[2], window or 0, scaling, softcap or 0.0)
    out = q.new_empty(rows, heads, v_cache.shape[2])
    keys, values = (ctypes.c_void_p * 1)(k_cache.data_ptr()), (ctypes.c_void_p * 1)(v_cache.data_ptr())
    step = Step(
        rows=rows, sequences=len(plan.context_lengths), query_start=plan.query_start.data_ptr(),
        context_lengths=plan.context_lengths.data_ptr(), block_tables=plan.block_tables.data_ptr(),
        table_width=plan.block_tables.shape[1], block_size=plan.block_size, keys=ctypes.addressof(keys),
        values=ctypes.addressof(values), threads=torch.get_num_threads(),
    )
    load().lm_paged_attention(is_bf16(q.dtype), byref(step), byref(shape), q.data_ptr(), out.data_ptr())
    return out
