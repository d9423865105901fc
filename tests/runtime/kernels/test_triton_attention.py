"""Triton's attention against float64 and the torch reference, on poisoned caches and outputs; on
CPUs interpreted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora_runtime.kernels.attention import AttentionPlan, paged_attention_reference
from lora_runtime.kernels.cache import write_kv_reference
from lora_runtime.kernels.triton import attention_tiles
from lora_runtime.kernels.triton.attention import paged_attention
from lora_runtime.kernels.triton.cache import write_kv

from ...support.attention import PagedCase
from ...support.device import DEVICE, TOLERANCE

MIXED = [(1, 4), (7, 0), (1, 33), (20, 51), (1, 0)]
SPLIT = [(1, 255), (1, 256), (1, 700), (1, 0)]
"""Contexts around the least that is split."""


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What torch leaves uninitialised becomes NaN: outputs and the kernels' scratch."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).new_empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def _check(case: PagedCase, **how: Any) -> None:
    actual = paged_attention(case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3, **how)
    assert actual.dtype == case.q.dtype
    reference = paged_attention_reference(  # of bfloat16 it would round the scores as well
        case.q.float(), case.k_cache.float(), case.v_cache.float(), case.plan, scaling=0.3, **how
    )
    tolerance = TOLERANCE[case.q.dtype]
    for expected in (case.expected(0.3, **how), reference.double().cpu()):
        torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "d", "dv", "block_size", "window", "softcap"),
    [
        (6, 2, 8, 4, 16, None, None),
        (7, 1, 64, 64, 8, None, 3.0),
        (3, 3, 80, 96, 32, 20, None),
        (4, 2, 33, 65, 128, 5, 3.0),
    ],
)
def test_a_mixed_step(
    heads: int,
    kv_heads: int,
    d: int,
    dv: int,
    block_size: int,
    window: int | None,
    softcap: float | None,
    dtype: torch.dtype,
) -> None:
    g = torch.Generator().manual_seed(heads * d)
    _check(
        PagedCase.random(g, heads, kv_heads, d, dv, dtype, block_size, MIXED, DEVICE),
        window=window,
        softcap=softcap,
    )


@pytest.mark.parametrize(
    ("heads", "dtype"), [(40, torch.float16), (66, torch.bfloat16), (17, torch.float32)]
)
def test_more_heads_on_a_key_head_than_a_tile_packs(heads: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(heads)
    _check(PagedCase.random(g, heads, 1, 16, 16, dtype, 4, [(1, 20), (5, 9)], DEVICE), window=12)


@pytest.mark.parametrize("window", [None, 300, 7])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_decode_rows_with_split_keys(dtype: torch.dtype, window: int | None) -> None:
    g = torch.Generator().manual_seed(1)
    _check(PagedCase.random(g, 4, 2, 24, 40, dtype, 16, SPLIT, DEVICE), window=window)


def test_more_splits_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a step of many rows: bit for bit what a program for each split gives."""
    g = torch.Generator().manual_seed(7)
    case = PagedCase.random(
        g, 2, 1, 16, 16, torch.bfloat16, 64, [(1, 1400), (1, 300), (1, 3)], DEVICE
    )
    each = paged_attention(case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3)
    monkeypatch.setattr(attention_tiles, "_PROGRAMS", 1)
    _check(case)
    assert torch.equal(
        paged_attention(case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3), each
    )


def test_programs_for_many_rows() -> None:
    """Enough for a GPU, few that only find that they have nothing to do."""
    tile = attention_tiles.decode_tile(attention_tiles.Heads(32, 8, 128, 128), torch.bfloat16)
    assert tile.most_splits(8192, None) == 32
    assert [tile.split_programs(32, rows, 8) for rows in (1, 8, 16, 64, 256)] == [32, 32, 16, 4, 4]
    assert tile.split_programs(1, 256, 8) == 1


@pytest.mark.slow
def test_a_context_of_more_than_the_most_splits() -> None:
    g = torch.Generator().manual_seed(2)
    case = PagedCase.random(g, 2, 1, 16, 16, torch.float32, 64, [(1, 8700)], DEVICE)
    _check(case, softcap=2.0, window=8500)


@pytest.mark.parametrize("seed", range(4))
def test_random_steps(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)

    def some(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=g))

    kv_heads = some(1, 4)
    sequences = [
        (some(1, 3) if some(0, 2) else some(1, 30), some(0, 60)) for _ in range(some(1, 5))
    ]
    dims, block_size = (some(1, 70), some(1, 70)), 1 << some(0, 6)
    case = PagedCase.random(
        g, kv_heads * some(1, 5), kv_heads, *dims, torch.float32, block_size, sequences, DEVICE
    )
    _check(case, window=some(1, 80) if seed % 2 else None, softcap=2.0 if seed % 3 else None)


def test_views_of_a_packed_projection() -> None:
    """q in the strides that transformers gives it."""
    g = torch.Generator().manual_seed(3)
    case = PagedCase.random(g, 4, 2, 16, 16, torch.float32, 16, MIXED, DEVICE)
    packed = torch.cat(
        [case.q.flatten(1), torch.full((len(case.q), 9), torch.nan, device=DEVICE)], 1
    )
    view = packed[:, :64].unflatten(1, (4, 16))
    assert not view.is_contiguous()
    _check(replace(case, q=view))
    _check(replace(case, q=case.q.transpose(0, 2).contiguous().transpose(0, 2)))


@pytest.mark.parametrize("told", [None, 3])
def test_neighbours_do_not_change_a_row(told: int | None) -> None:
    """Bit for bit: alone, in a mixed step, and in a table as wide as the longest context."""
    g = torch.Generator().manual_seed(4)
    case = PagedCase.random(
        g, 4, 2, 16, 16, torch.float32, 16, [(1, 4), (7, 0), (20, 21), (1, 400)], DEVICE
    )
    plan = case.plan
    assert plan.decode_rows is None
    decode_rows = int((plan.query_start.diff() == 1).sum()) if told else None
    together = paged_attention(
        case.q, case.k_cache, case.v_cache, replace(plan, decode_rows=decode_rows), scaling=0.3
    )
    for i, (start, end) in enumerate(zip(plan.query_start[:-1], plan.query_start[1:], strict=True)):
        starts = torch.tensor([0, end - start], dtype=torch.int32, device=DEVICE)
        blocks = -(-int(plan.context_lengths[i]) // 16)
        own = AttentionPlan(
            plan.slots[start:end],
            starts,
            plan.context_lengths[i : i + 1],
            plan.block_tables[i : i + 1, :blocks],
            16,
        )
        alone = paged_attention(case.q[start:end], case.k_cache, case.v_cache, own, scaling=0.3)
        assert torch.equal(alone, together[start:end]), i


class _NoHostReads(TorchDispatchMode):
    """What a captured graph cannot do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        ), func
        return func(*args, **(kwargs or {}))


def test_fixed_buffers_of_decode_rows() -> None:
    """Buffers for more rows and longer contexts than there are: unused rows get zeros, nothing is
    read on the host."""
    g = torch.Generator().manual_seed(5)
    case = PagedCase.random(g, 4, 2, 16, 16, torch.float32, 16, [(1, 700), (1, 3)], DEVICE)
    rows, capacity = 4, 96
    tables = torch.full(
        (rows, capacity), -(1 << 30), dtype=torch.int32, device=DEVICE
    )  # an entry behind is not read
    tables[:2, : case.plan.block_tables.shape[1]] = case.plan.block_tables
    lengths = torch.cat(
        [case.plan.context_lengths, torch.zeros(2, dtype=torch.int32, device=DEVICE)]
    )
    starts = torch.arange(rows + 1, dtype=torch.int32, device=DEVICE)
    plan = AttentionPlan(torch.zeros_like(lengths), starts, lengths, tables, 16)
    q = torch.cat([case.q, torch.full_like(case.q, torch.nan)])
    with _NoHostReads():
        actual = paged_attention(q, case.k_cache, case.v_cache, plan, scaling=0.3)
    torch.testing.assert_close(actual[:2].double().cpu(), case.expected(0.3), rtol=1e-5, atol=1e-5)
    assert (actual[2:] == 0).all()


def test_not_a_number_stays_in_its_sequence() -> None:
    g = torch.Generator().manual_seed(6)
    case = PagedCase.random(g, 4, 2, 16, 16, torch.float32, 16, MIXED, DEVICE)
    sound = paged_attention(case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3)
    case.v_cache[case.row_slots[1][0]] = torch.nan  # the first position of the second sequence
    broken = paged_attention(case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3)
    assert broken[1:8].isnan().all()
    assert torch.equal(torch.cat([broken[:1], broken[8:]]), torch.cat([sound[:1], sound[8:]]))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("kv_heads", "d", "dv"), [(2, 16, 16), (3, 80, 33), (9, 128, 256)])
def test_keys_and_values_are_written_where_they_belong(
    kv_heads: int, d: int, dv: int, dtype: torch.dtype
) -> None:
    g = torch.Generator().manual_seed(d)
    rows, total = 11, 64
    keys, values = (
        torch.randn(kv_heads, rows, n, generator=g).to(DEVICE, dtype).transpose(0, 1)
        for n in (d, dv)
    )
    slots = torch.randperm(total, generator=g)[:rows].int().to(DEVICE)
    caches = [torch.full((total, kv_heads, n), -7.0, dtype=dtype, device=DEVICE) for n in (d, dv)]
    expected = [c.clone() for c in caches]
    write_kv(keys, values, caches[0], caches[1], slots)
    write_kv_reference(keys, values, expected[0], expected[1], slots)
    assert all(map(torch.equal, caches, expected))
