"""The reference kernels against dense arithmetic in float64, on random inputs."""

from __future__ import annotations

import math

import pytest
import torch

from lora_runtime.kernels.attention import AttentionPlan, DecodeRows, PrefillChunk, paged_attention_reference
from lora_runtime.kernels.lora import LoraSegment, add_lora_reference


@pytest.mark.parametrize("seed", range(20))
def test_lora_equals_the_dense_update(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    rows, n_in, n_out = (int(torch.randint(1, 40, (), generator=g)) for _ in range(3))
    x, y = torch.randn(rows, n_in, generator=g), torch.randn(rows, n_out, generator=g)
    expected, segments = y.double(), []
    for _ in range(int(torch.randint(0, 6, (), generator=g))):  # they may overlap: several adapters per row
        start, end = sorted(torch.randint(0, rows + 1, (2,), generator=g).tolist())
        rank = int(torch.randint(1, 70, (), generator=g))
        a, b = torch.randn(rank, n_in, generator=g), torch.randn(n_out, rank, generator=g)
        scaling = float(torch.rand((), generator=g))
        segments.append(LoraSegment(start, end, a, b, scaling))
        delta = scaling * b.double() @ a.double()
        expected[start:end] += x[start:end].double() @ delta.T
    add_lora_reference(y, x, segments)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("seed", range(4))
def test_attention_equals_row_by_row(seed: int, window: int | None, softcap: float | None) -> None:
    g = torch.Generator().manual_seed(seed)
    heads, kv_heads, d, dv, slots = 6, 2, 8, 4, 300
    k_cache, v_cache = torch.randn(slots, kv_heads, d, generator=g), torch.randn(slots, kv_heads, dv, generator=g)
    free = torch.randperm(slots, generator=g)
    chunks, decode, row_slots, start = [], [], [], 0
    for new in [1, 7, 1, 3, 1]:
        length = new + int(torch.randint(0, 30, (), generator=g))
        own, free = free[:length], free[length:]
        if new == 1:
            decode.append((start, own))
        else:
            chunks.append(PrefillChunk(start, start + new, own))
        row_slots += [own[: length - new + 1 + i] for i in range(new)]
        start += new
    q = torch.randn(start, heads, d, generator=g)
    plan = AttentionPlan(torch.empty(0), chunks, _decode_rows(decode))
    actual = paged_attention_reference(q, k_cache, v_cache, plan, scaling=0.3, window=window, softcap=softcap)
    for row, visible in enumerate(row_slots):
        kept = visible[-window:] if window else visible
        expected = _attend_row(q[row], k_cache[kept], v_cache[kept], softcap)
        torch.testing.assert_close(actual[row].double(), expected, rtol=1e-4, atol=1e-5)


def _decode_rows(decode: list[tuple[int, torch.Tensor]]) -> DecodeRows:
    lengths = torch.tensor([len(own) for _, own in decode])
    padded = torch.stack([torch.cat([own, own[:1].expand(int(lengths.max()) - len(own))]) for _, own in decode])
    return DecodeRows(torch.tensor([row for row, _ in decode]), padded, lengths)


def _attend_row(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """q: (heads, d); k: (S, kv_heads, d); v: (S, kv_heads, dv) → (heads, dv), one head at a time."""
    groups, out = q.shape[0] // k.shape[1], []
    for head in range(q.shape[0]):
        scores = [float(q[head].double() @ key[head // groups].double()) * 0.3 for key in k]
        if softcap is not None:
            scores = [softcap * math.tanh(s / softcap) for s in scores]
        weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
        out.append(weights @ v[:, head // groups].double())
    return torch.stack(out)
