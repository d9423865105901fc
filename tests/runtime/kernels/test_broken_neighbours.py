"""Rows whose adapters give NaN or infinities beside rows of others: what is not theirs stays bit
for bit, in every implementation of the updates."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lora_runtime.kernels.cpu import library, ops, weights
from lora_runtime.kernels.fused_update import update_group_reference
from lora_runtime.kernels.lora import LoraSegment, add_lora_reference
from lora_runtime.kernels.plan import DECODE_TILE, PREFILL_TILE
from lora_runtime.kernels.triton.lora import update_group

from ...support.device import DEVICE
from ...support.grouped import copy, random_step

ADD_LORA = {"torch": add_lora_reference, "cpp": ops.add_lora}
UPDATE_GROUP = {"torch": update_group_reference, "triton": update_group}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
VALUES = (math.nan, math.inf, -math.inf)


@DTYPES
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kernel", ADD_LORA)
def test_segments_do_not_mix(kernel: str, seed: int, dtype: torch.dtype) -> None:
    """Tiles of rows hold several adapters' rows, and ranks that fill no vector."""
    g = torch.Generator().manual_seed(seed)
    rows, n_in, n_out = 17, 45 + seed, 37 + seed
    x = torch.randn(rows, n_in, generator=g).to(dtype)
    y = torch.randn(rows, n_out, generator=g)
    y = y if kernel == "cpp" else y.to(dtype)
    ends = [0, 1, 6, 7, 13, rows]
    segments = [
        LoraSegment(
            start,
            end,
            torch.randn(rank, n_in, generator=g).to(dtype),
            torch.randn(n_out, rank, generator=g).to(dtype),
            0.5,
        )
        for start, end, rank in zip(ends, ends[1:], (3, 1, 9, 8, 5), strict=False)
    ]
    sound = y.clone()
    ADD_LORA[kernel](sound, x, segments)
    for i, value in enumerate(VALUES):
        bad = segments[(i + seed) % len(segments)]
        spoilt = [replace(s, b=torch.full_like(s.b, value)) if s is bad else s for s in segments]
        found = y.clone()
        ADD_LORA[kernel](found, x, spoilt)
        others = [r for r in range(rows) if not bad.start <= r < bad.end]
        assert torch.equal(found[others], sound[others]), value
        assert not found[bad.start : bad.end].isfinite().any()


@DTYPES
@pytest.mark.parametrize("kernel", ADD_LORA)
def test_a_broken_row_of_the_same_adapter(kernel: str, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(9, 40, generator=g).to(dtype), torch.zeros(9, 33)
    y = y if kernel == "cpp" else y.to(dtype)
    a, b = (torch.randn(*s, generator=g).to(dtype) for s in ((5, 40), (33, 5)))
    sound, found = y.clone(), y.clone()
    ADD_LORA[kernel](sound, x, [LoraSegment(0, 9, a, b, 1.0)])
    x[4] = math.nan
    ADD_LORA[kernel](found, x, [LoraSegment(0, 9, a, b, 1.0)])
    assert found[4].isnan().all()
    others = [r for r in range(9) if r != 4]
    assert torch.equal(found[others], sound[others])


@pytest.mark.parametrize(
    ("kernel", "tile_size"),
    [
        pytest.param(kernel, size, marks=[pytest.mark.slow] * (kernel == "triton"))
        for kernel in UPDATE_GROUP
        for size in (DECODE_TILE, PREFILL_TILE)
    ],
)
def test_slots_do_not_mix(kernel: str, tile_size: int) -> None:
    """Every tensor of one slot is NaN, the scratch too: only rows under it are."""
    for seed, dtype in ((0, torch.float32), (8, torch.bfloat16), (9, torch.float32)):
        step = random_step(torch.Generator().manual_seed(seed), dtype, DEVICE)
        rows_of = {
            slot: {r for s in step.segments if s.slot == slot for r in range(s.start, s.end)}
            for slot in range(len(step.slots))
            if step.slots[slot]
        }
        bad, under = min(
            ((slot, rows) for slot, rows in rows_of.items() if rows), key=lambda i: len(i[1])
        )
        plan, before = step.plan(tile_size), step.y.clone()
        UPDATE_GROUP[kernel](step.y, step.x, step.group, plan, step.table)
        sound = step.y.clone()
        step.y.copy_(before)
        for delta in step.slots[bad].values():
            for tensor in delta.tensors().values():
                if tensor.is_floating_point():
                    tensor.fill_(math.nan)
        step.table.flush(copy)
        plan.hidden.fill_(math.nan)
        UPDATE_GROUP[kernel](step.y, step.x, step.group, plan, step.table)
        others = [r for r in range(len(before)) if r not in under]
        assert others, "the case holds rows of others"
        assert torch.equal(step.y[others], sound[others])
        assert step.y[sorted(under)].isnan().any()


@DTYPES
@pytest.mark.parametrize("int8", [False, True])
def test_rows_of_a_product_do_not_mix(int8: bool, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(2)
    packed = weights.pack_linear(
        library.load(), torch.randn(70, 48, generator=g).to(dtype), None, int8
    )
    x = torch.randn(19, 48, generator=g).to(dtype)
    sound = ops.linear(x, packed)
    for i, value in enumerate((*VALUES, float(torch.finfo(dtype).max))):
        spoilt = x.clone()
        spoilt[2 + 5 * i, 7] = value
        found = ops.linear(spoilt, packed)
        others = [r for r in range(19) if r != 2 + 5 * i]
        assert torch.equal(found[others], sound[others]), value
