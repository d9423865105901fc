"""The planned LoRA kernels against float64, against each other and against update_linear; on CPUs
interpreted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lora_runtime.kernels.fused_update import update_group_reference
from lora_runtime.kernels.lora import add_lora_reference
from lora_runtime.kernels.plan import DECODE_TILE, PREFILL_TILE, PlanBuffers, SlotSegment
from lora_runtime.kernels.triton import lora_tiles
from lora_runtime.kernels.triton.lora import update_group
from lora_runtime.kernels.updates import ModuleDelta, UpdateSegment, update_linear
from lora_runtime.modules import ModuleKind

from ...support.device import DEVICE, ON_GPU, TOLERANCE
from ...support.grouped import Step, copy, random_delta, random_step
from ...support.slow import slow_but

KERNELS: dict[str, Callable[..., None]] = {"torch": update_group_reference, "triton": update_group}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
TILES = pytest.mark.parametrize("tile_size", [1, DECODE_TILE, PREFILL_TILE])


def _check(
    step: Step, tile_size: int, kernel: str = "triton", tolerance: float | None = None
) -> None:
    """y is right where adapters change it, and has every other bit, of the wider tensor too, as it
    was."""
    whole = step.y._base if step.y._base is not None else step.y
    before, expected, old = whole.clone(), step.expected(), step.y.clone()
    KERNELS[kernel](step.y, step.x, step.group, step.plan(tile_size), step.table)
    tolerance = tolerance or TOLERANCE[step.x.dtype]
    scale = float(expected.abs().max())
    torch.testing.assert_close(step.y.double(), expected, rtol=tolerance, atol=tolerance * scale)
    for row in range(len(old)):
        step.y[row, step.changed(row)] = old[row, step.changed(row)]
    assert torch.equal(whole, before)


@DTYPES
@pytest.mark.parametrize("tile_size", [DECODE_TILE, PREFILL_TILE])
@pytest.mark.parametrize("seed", slow_but([0], range(3)))
def test_a_mixture_equals_float64(seed: int, tile_size: int, dtype: torch.dtype) -> None:
    _check(
        random_step(torch.Generator().manual_seed(7 * tile_size + seed), dtype, DEVICE), tile_size
    )


@DTYPES
@pytest.mark.parametrize("seed", range(10))
def test_the_reference_equals_float64(seed: int, dtype: torch.dtype) -> None:
    step = random_step(torch.Generator().manual_seed(seed), dtype, DEVICE)
    _check(step, [1, DECODE_TILE, PREFILL_TILE][seed % 3], "torch")


@pytest.mark.slow
@TILES
def test_only_the_result_is_rounded(tile_size: int) -> None:
    """With bfloat16 weights a float32 y is as exact as float32 is; on tensor cores h is cut to the
    11 bits of tf32."""
    step = random_step(
        torch.Generator().manual_seed(tile_size), torch.bfloat16, DEVICE, torch.float32
    )
    _check(step, tile_size, tolerance=2e-3 if ON_GPU else 1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", range(2))
def test_it_equals_update_linear(seed: int, kernel: str) -> None:
    step = random_step(torch.Generator().manual_seed(seed), torch.float32, DEVICE)
    expected, column = step.y.clone(), 0
    for m, out in enumerate(step.outs):
        columns = slice(column, column + out)
        column += out
        segments = [
            UpdateSegment(start, end, step.slots[slot][m], weight)
            for start, end, slot, weight in step.segments
            if m in step.slots[slot]
        ]
        if segments:
            bias = None if step.bias is None else step.bias[columns]
            expected[:, columns] = update_linear(
                expected[:, columns].clone(), step.x, segments, bias, add_lora_reference
            )
    KERNELS[kernel](step.y, step.x, step.group, step.plan(DECODE_TILE), step.table)
    torch.testing.assert_close(step.y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tile_size", [DECODE_TILE, PREFILL_TILE])
@pytest.mark.parametrize("rank", [64, 65, 200])
def test_ranks_beyond_what_the_programs_take_at_once(rank: int, tile_size: int) -> None:
    g = torch.Generator().manual_seed(rank)
    inputs, out = 300, 70
    x, y = (
        torch.randn(4, inputs, generator=g).to(DEVICE),
        torch.randn(4, out, generator=g).to(DEVICE),
    )
    delta = random_delta(g, out, inputs, torch.float32, DEVICE, rank=rank)
    _check(Step(x, y, (out,), None, [{0: delta}], [SlotSegment(1, 3, 0, 1.0)]), tile_size)


def test_more_tiles_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which give the same bits as a program for each."""
    monkeypatch.setattr(lora_tiles, "DECODE", replace(lora_tiles.DECODE, programs=8))
    g = torch.Generator().manual_seed(9)
    rows, inputs, out = 15, 12, 5
    x, y = (
        torch.randn(rows, inputs, generator=g).to(DEVICE),
        torch.randn(rows, out, generator=g).to(DEVICE),
    )
    slots = [{0: random_delta(g, out, inputs, torch.float32, DEVICE, rank=rank)} for rank in (3, 8)]
    step = Step(
        x, y, (out,), None, slots, [SlotSegment(row, row + 1, row % 2, 1.0) for row in range(10)]
    )
    own = step.y.clone()
    _check(step, 1)
    looped = own.clone()
    update_group(looped, step.x, step.group, step.plan(1), step.table)
    monkeypatch.undo()
    update_group(own, step.x, step.group, step.plan(1), step.table)
    assert torch.equal(looped, own)


def _wide_step(dtype: torch.dtype) -> Step:
    """Eight rows, of which some share adapters; inputs for several splits."""
    g = torch.Generator().manual_seed(5)
    outs, inputs = (70, 20), 300
    slots = [
        {m: random_delta(g, out, inputs, dtype, DEVICE, rank=rank) for m, out in enumerate(outs)}
        for rank in (8, 33)
    ]
    x, y = (
        torch.randn(8, inputs, generator=g).to(DEVICE, dtype),
        torch.randn(8, 90, generator=g).to(DEVICE, dtype),
    )
    return Step(x, y, outs, None, slots, [SlotSegment(0, 4, 0, 1.0), SlotSegment(2, 7, 1, 0.5)])


@pytest.mark.parametrize("tile_size", [DECODE_TILE, PREFILL_TILE])
def test_a_row_does_not_depend_on_its_neighbours(tile_size: int) -> None:
    """Bit for bit, for one tile size, wherever the row lies in its tile."""
    together = _wide_step(torch.bfloat16)
    update_group(together.y, together.x, together.group, together.plan(tile_size), together.table)
    for row in (3, 6):
        alone = _wide_step(torch.bfloat16)
        alone.segments = [
            SlotSegment(row, row + 1, slot, w)
            for start, end, slot, w in alone.segments
            if start <= row < end
        ]
        update_group(alone.y, alone.x, alone.group, alone.plan(tile_size), alone.table)
        assert torch.equal(alone.y[row], together.y[row])


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_replaced_cannot_break_its_place(kernel: str) -> None:
    """A product of the base that is not finite stays where it is kept in part, and only there."""
    g = torch.Generator().manual_seed(0)
    out, inputs = 5, 9
    saved = ModuleDelta(
        ModuleKind.LINEAR, out, dense=torch.randn(out, inputs, generator=g).to(DEVICE)
    )
    muted = ModuleDelta(ModuleKind.LINEAR, out, gain=torch.full((out,), -1.0, device=DEVICE))
    y = torch.full((4, out), torch.inf, device=DEVICE)
    step = Step(
        torch.randn(4, inputs, generator=g).to(DEVICE),
        y,
        (out,),
        None,
        [{0: saved}, {0: muted}],
        [SlotSegment(0, 1, 0, 1.0), SlotSegment(1, 2, 1, 1.0), SlotSegment(2, 3, 0, 0.5)],
    )
    KERNELS[kernel](y, step.x, step.group, step.plan(DECODE_TILE), step.table)
    torch.testing.assert_close(y[0], step.x[0] @ saved.dense.t())  # type: ignore[union-attr]
    assert torch.equal(y[1], torch.zeros_like(y[1]))
    assert y[2:].isinf().all()


def test_a_step_in_buffers_for_more() -> None:
    """Plans of changing size in one place, with slots that change under them; what is unused names
    no row."""
    buffers = PlanBuffers(12, 20, 1 << 16, DECODE_TILE, torch.device(DEVICE))
    places = [t.data_ptr() for t in vars(buffers.plan).values() if isinstance(t, torch.Tensor)]
    for seed in range(2):
        step = random_step(torch.Generator().manual_seed(40 + seed), torch.float32, DEVICE)
        buffers.plan.hidden.fill_(torch.nan)
        buffers.fill(step.arrays(DECODE_TILE))
        expected = step.expected()
        update_group(step.y, step.x, step.group, buffers.plan, step.table)
        torch.testing.assert_close(step.y.double(), expected, rtol=1e-5, atol=1e-4)
    assert places == [
        t.data_ptr() for t in vars(buffers.plan).values() if isinstance(t, torch.Tensor)
    ]
    step.segments = ()
    buffers.fill(step.arrays(DECODE_TILE))
    before = step.y.clone()
    update_group(step.y, step.x, step.group, buffers.plan, step.table)
    assert torch.equal(step.y, before)


def test_a_cleared_slot_changes_nothing() -> None:
    """A plan may still name it: its row of the table is all that is read."""
    step = random_step(torch.Generator().manual_seed(1), torch.float32, DEVICE)
    plan, before = step.plan(DECODE_TILE), step.y.clone()
    for slot, deltas in enumerate(step.slots):
        for delta in deltas.values():
            delta.map(lambda t: t.fill_(torch.nan))
        step.table.clear(slot)
    step.table.flush(copy)
    update_group(step.y, step.x, step.group, plan, step.table)
    assert torch.equal(step.y, before)


@pytest.mark.parametrize("kernel", KERNELS)
def test_arguments_that_do_not_fit_are_refused(kernel: str) -> None:
    step = random_step(torch.Generator().manual_seed(2), torch.float32, DEVICE)
    wide = torch.zeros(len(step.y), 2 * step.y.shape[1], device=DEVICE)
    for y, x, why in [
        (step.y[:, 1:], step.x, "outputs"),
        (step.y, step.x[1:], "outputs"),
        (wide[:, ::2], step.x, "contiguous"),
        (step.y, step.x.to(torch.bfloat16), "adapters are torch.float32"),
    ]:
        with pytest.raises(ValueError, match=why):
            KERNELS[kernel](y, x, step.group, step.plan(DECODE_TILE), step.table)
