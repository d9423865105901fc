"""Random paged layouts with poison where no row may look, and attention row by row in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora_runtime.kernels.attention import AttentionPlan


@dataclass(frozen=True)
class PagedCase:
    """A plan over caches that are NaN but for the slots in `row_slots`: those that each row may
    see, in order."""

    plan: AttentionPlan
    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    row_slots: list[list[int]]

    @classmethod
    def random(
        cls,
        g: torch.Generator,
        heads: int,
        kv_heads: int,
        d: int,
        dv: int,
        dtype: torch.dtype,
        block_size: int,
        sequences: Sequence[tuple[int, int]],
        device: str = "cpu",
    ) -> PagedCase:
        """`sequences`: (rows, positions before them) of each."""
        needed = [-(-(new + before) // block_size) for new, before in sequences]
        free = torch.randperm(sum(needed) + 3, generator=g).tolist()
        starts, lengths, tables, row_slots = [0], [], [], []
        for (new, before), blocks in zip(sequences, needed, strict=True):
            own = [free.pop() for _ in range(blocks)]
            slots = [b * block_size + o for b in own for o in range(block_size)]
            row_slots += [slots[: before + 1 + i] for i in range(new)]
            starts.append(starts[-1] + new)
            lengths.append(new + before)
            tables.append(own)
        padded = [t + [0] * (max(needed) + 1 - len(t)) for t in tables]
        slots_written = [s[-1] for s in row_slots]
        written, query_start, contexts, table = (
            torch.tensor(v, dtype=torch.int32, device=device)
            for v in (slots_written, starts, lengths, padded)
        )
        plan = AttentionPlan(written, query_start, contexts, table, block_size)
        total = (sum(needed) + 3) * block_size
        k_cache, v_cache = (
            torch.full((total, kv_heads, n), math.nan, dtype=dtype) for n in (d, dv)
        )
        for slots in row_slots:
            k_cache[slots] = torch.randn(len(slots), kv_heads, d, generator=g).to(dtype)
            v_cache[slots] = torch.randn(len(slots), kv_heads, dv, generator=g).to(dtype)
        q = torch.randn(len(row_slots), heads, d, generator=g).to(dtype)
        return cls(plan, q.to(device), k_cache.to(device), v_cache.to(device), row_slots)

    def expected(
        self,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(T, heads, dv) float64 on the CPU."""
        q, k_cache, v_cache = (t.double().cpu() for t in (self.q, self.k_cache, self.v_cache))
        return torch.stack(
            [
                _attend_row(q[row], k_cache[kept], v_cache[kept], scaling, softcap, sinks)
                for row, visible in enumerate(self.row_slots)
                for kept in [visible[-window:] if window else visible]
            ]
        )


def _attend_row(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """q: (heads, d); k: (S, kv_heads, d); v: (S, kv_heads, dv) → (heads, dv), one head at a time."""
    groups, out = q.shape[0] // k.shape[1], []
    for head in range(q.shape[0]):
        scores = (k[:, head // groups] @ q[head]) * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        values = v[:, head // groups]
        if sinks is not None:  # one more position, which has no value
            scores = torch.cat([scores, sinks[head, None].double()])
            values = torch.cat([values, torch.zeros_like(values[:1])])
        out.append(scores.softmax(0) @ values)
    return torch.stack(out)
