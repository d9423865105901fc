"""Attention over a paged KV cache for a packed batch of prefill chunks and decode rows.

Blocks and block tables follow PagedAttention (arXiv:2309.06180).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class PrefillChunk:
    """Rows `start:end` of the batch are consecutive positions of one sequence.

    `kv_slots`: (S,) cache slots of positions 0..S-1, the chunk's own rows included.
    """

    start: int
    end: int
    kv_slots: torch.Tensor


@dataclass(frozen=True)
class DecodeRows:
    """Rows with one new token each.

    `rows`: (N,) indices into the batch; `kv_slots`: (N, S) cache slots, padded to the longest with
    a slot of the same sequence so that one sequence's values never reach another; `lengths`: (N,)
    positions that count, the row itself included.
    """

    rows: torch.Tensor
    kv_slots: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """Where a step's rows find their keys and values. `new_slots`: (T,) slot each row writes."""

    new_slots: torch.Tensor
    prefill: Sequence[PrefillChunk]
    decode: DecodeRows | None


def paged_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: AttentionPlan,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Causal grouped-query attention of `q` (T, heads, d) over caches (slots, kv_heads, d).

    `window` limits a row to its last `window` positions, itself included; `softcap` c replaces a
    score s by c*tanh(s/c). Returns (T, heads, d_v).
    """
    out = q.new_empty(q.shape[0], q.shape[1], v_cache.shape[-1])
    for chunk in plan.prefill:
        length = chunk.kv_slots.shape[0]
        positions = torch.arange(length - (chunk.end - chunk.start), length, device=q.device)
        mask = _visible(positions[:, None], torch.arange(length, device=q.device), window)
        out[chunk.start : chunk.end] = _attend(
            q[chunk.start : chunk.end].transpose(0, 1)[None],
            k_cache[chunk.kv_slots].transpose(0, 1)[None],
            v_cache[chunk.kv_slots].transpose(0, 1)[None],
            mask[None, None], scaling, softcap,
        )[0].transpose(0, 1)
    if plan.decode is not None:
        rows = plan.decode
        keys = torch.arange(rows.kv_slots.shape[1], device=q.device)
        mask = _visible(rows.lengths[:, None] - 1, keys, window)
        out[rows.rows] = _attend(
            q[rows.rows][:, :, None],
            k_cache[rows.kv_slots].transpose(1, 2),
            v_cache[rows.kv_slots].transpose(1, 2),
            mask[:, None, None], scaling, softcap,
        )[:, :, 0]
    return out


def _visible(query_pos: torch.Tensor, key_pos: torch.Tensor, window: int | None) -> torch.Tensor:
    mask = key_pos <= query_pos
    return mask if window is None else mask & (key_pos > query_pos - window)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scaling: float, softcap: float | None
) -> torch.Tensor:
    """q: (N, heads, L, d); k, v: (N, kv_heads, S, d); mask: broadcast to (N, 1, L, S)."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    scores = torch.tanh(q @ k.transpose(-1, -2) * scaling / softcap) * softcap
    scores = scores.float().masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(v.dtype) @ v
