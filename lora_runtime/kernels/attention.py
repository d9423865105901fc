"""Attention over a paged KV cache for a packed batch of prefill chunks and decode rows.

Blocks and block tables follow PagedAttention (arXiv:2309.06180).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

Ints = npt.NDArray[np.int32]
_MOST = 1e30
"""Keys this far out count as not finite: with an ordinary query they may give infinite scores."""


class RowArrays(Protocol):
    """What a plan is made of, on the host: batch.StepBatch."""

    @property
    def slots(self) -> Ints: ...
    @property
    def query_start(self) -> Ints: ...
    @property
    def context_lengths(self) -> Ints: ...
    @property
    def block_tables(self) -> Ints: ...
    @property
    def block_size(self) -> int: ...


@dataclass(frozen=True)
class AttentionPlan:
    """Places where a step's rows find their keys and values; all int32, on one device.

    `slots`: (T,) cache slot each row writes. Sequence i has the rows `query_start[i]:query_start[i
    + 1]`, (S + 1,), the last of its `context_lengths[i]` positions, (S,). Position p lies in slot
    `block_tables[i, p // block_size] * block_size + p % block_size`, (S, width); entries behind the
    context are never followed. Fixed buffers of decode rows have T = S; an unused row has the
    context length 0 and gets zeros (the Triton kernels), or 1 and any slot.
    """

    slots: torch.Tensor
    query_start: torch.Tensor
    context_lengths: torch.Tensor
    block_tables: torch.Tensor
    block_size: int
    decode_rows: int | None = None
    """Sequences with one row, known on the host; None: not told, so that both kernels are launched
    where T > S."""
    host: RowArrays | None = None
    """The same arrays on the host, for routes that plan there (FlashInfer)."""

    @classmethod
    def of(cls, arrays: RowArrays, device: torch.device) -> AttentionPlan:
        """A step's plan on `device`; `arrays` must not change while it is used."""

        def there(array: Ints) -> Any:
            return torch.as_tensor(array, device=device)

        return cls(
            there(arrays.slots),
            there(arrays.query_start),
            there(arrays.context_lengths),
            there(arrays.block_tables),
            arrays.block_size,
            decode_rows=int((np.diff(arrays.query_start) == 1).sum()),
            host=arrays,
        )

    @cached_property
    def split(self) -> tuple[list[tuple[int, int, torch.Tensor]], DecodeRows | None]:
        """The reference's rows: prefill chunks as (start, end, slots of all positions), and decode
        rows."""
        starts, lengths = self.query_start.tolist(), self.context_lengths.tolist()
        offsets = torch.arange(self.block_size, device=self.block_tables.device)
        slots = (self.block_tables.long()[:, :, None] * self.block_size + offsets).flatten(1)
        single = [i for i in range(len(lengths)) if starts[i + 1] - starts[i] == 1]
        chunks = [
            (starts[i], starts[i + 1], slots[i, : lengths[i]])
            for i in range(len(lengths))
            if i not in single
        ]
        return chunks, DecodeRows.of(single, starts, lengths, slots) if single else None


@dataclass(frozen=True)
class DecodeRows:
    """Rows with one new token each.

    `rows`: (N,) indices into the batch; `kv_slots`: (N, S) cache slots, filled up to the longest
    with a slot of the same sequence so that one sequence's values never reach another; `lengths`:
    (N,) positions that count, the row itself included.
    """

    rows: torch.Tensor
    kv_slots: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def of(
        cls, sequences: list[int], starts: list[int], lengths: list[int], slots: torch.Tensor
    ) -> DecodeRows:
        counted = torch.tensor([lengths[i] for i in sequences], device=slots.device)
        own = slots[sequences, : int(counted.max())]
        outside = torch.arange(own.shape[1], device=slots.device) >= counted[:, None]
        rows = torch.tensor([starts[i] for i in sequences], device=slots.device)
        return cls(rows, torch.where(outside, own[:, :1], own), counted)


def paged_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: AttentionPlan,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal grouped-query attention of `q` (T, heads, d) over caches (slots, kv_heads, d).

    `window` limits a row to its last `window` positions, itself included; `softcap` c replaces a
    score s by c*tanh(s/c); `sinks` (heads,) are scores that take a share of each row's softmax and
    have no value (arXiv:2309.17453). Returns (T, heads, d_v).
    """
    if not q.is_cpu:  # CUDA's own kernels raise for views whose strides are not aligned
        q = q.contiguous()
    out = q.new_empty(q.shape[0], q.shape[1], v_cache.shape[-1])
    chunks, decode = plan.split
    for start, end, slots in chunks:
        length = slots.shape[0]
        positions = torch.arange(length - (end - start), length, device=q.device)
        mask = _visible(positions[:, None], torch.arange(length, device=q.device), window)
        out[start:end] = _attend(
            q[start:end].transpose(0, 1)[None],
            k_cache[slots].transpose(0, 1)[None],
            v_cache[slots].transpose(0, 1)[None],
            mask[None, None],
            scaling,
            softcap,
            sinks,
        )[0].transpose(0, 1)
    if decode is not None:
        keys = torch.arange(decode.kv_slots.shape[1], device=q.device)
        mask = _visible(decode.lengths[:, None] - 1, keys, window)
        out[decode.rows] = _attend(
            q[decode.rows][:, :, None],
            k_cache[decode.kv_slots].transpose(1, 2),
            v_cache[decode.kv_slots].transpose(1, 2),
            mask[:, None, None],
            scaling,
            softcap,
            sinks,
        )[:, :, 0]
    return out


def _visible(query_pos: torch.Tensor, key_pos: torch.Tensor, window: int | None) -> torch.Tensor:
    mask = key_pos <= query_pos
    return mask if window is None else mask & (key_pos > query_pos - window)


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """q: (N, heads, L, d); k, v: (N, kv_heads, S, d), which may be changed; mask: broadcast to (N,
    1, L, S).

    Masks are added to scores, and values multiplied with probabilities of 0, neither of which
    silences NaN. So positions with what is not finite are taken out, and the rows that see one get
    NaN.
    """
    if q.is_cpu:  # elsewhere the host would wait to know whether there is any
        out = _softmax_sum(q, k, v, mask, scaling, softcap, sinks)
        if not out.isnan().any():
            return out
    broken = ~((_largest(k) < _MOST) & _largest(v).isfinite())
    for t in (k, v):  # in place: in other strides sums may be taken in another order
        t.masked_fill_(broken[:, None, :, None], 0)
    out = _softmax_sum(q, k, v, mask, scaling, softcap, sinks)
    sees = (mask & broken[:, None, None]).any(-1, keepdim=True)
    return out.masked_fill(sees, torch.nan)


def _largest(x: torch.Tensor) -> torch.Tensor:
    """x: (N, heads, S, d) → (N, S), NaN where there is any."""
    return x.abs().amax((1, 3))


def _softmax_sum(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    scores = q @ k.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.float().masked_fill(~mask, float("-inf"))
    if sinks is not None:
        beside = sinks.float()[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([scores, beside], -1).softmax(-1)[..., :-1].to(v.dtype) @ v
    return scores.softmax(-1).to(v.dtype) @ v
