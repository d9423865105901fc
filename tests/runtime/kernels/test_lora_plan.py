"""Plans of which rows take which slots: every row its own pairs, in order, in as few tiles as that
allows."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_runtime.kernels.plan import (
    DECODE_TILE,
    PREFILL_TILE,
    LoraPlan,
    PlanBuffers,
    SlotSegment,
    hidden_per_row,
    plan_tiles,
    splits,
)

from ...support.device import DEVICE

CPU = torch.device("cpu")
HERE = torch.device(DEVICE)
SEGMENTS = st.lists(
    st.builds(
        SlotSegment,
        st.integers(0, 40),
        st.integers(0, 40),
        st.integers(0, 3),
        st.sampled_from([0.5, 1.0]),
    ),
    max_size=7,
)
TILES = st.sampled_from([1, 3, DECODE_TILE])


def _hidden_of(slot: int) -> int:
    return 5 * slot


@given(SEGMENTS, TILES)
def test_every_row_gets_its_pairs_in_order(segments: list[SlotSegment], tile_size: int) -> None:
    found: dict[int, list[tuple[int, float]]] = {}
    for start, end, pairs in plan_tiles(segments, tile_size, _hidden_of).to(CPU).tiles():
        assert 0 < end - start <= tile_size
        for row in range(start, end):
            assert row not in found
            found[row] = pairs
    expected = {
        row: [(slot, w) for start, end, slot, w in segments if start <= row < end]
        for row in range(40)
    }
    assert found == {row: pairs for row, pairs in expected.items() if pairs}


@given(SEGMENTS, TILES)
def test_tiles_are_as_long_as_they_can_be(segments: list[SlotSegment], tile_size: int) -> None:
    tiles = list(plan_tiles(segments, tile_size, _hidden_of).to(CPU).tiles())
    for (start, end, pairs), (following, _, others) in pairwise(tiles):
        assert end < following or pairs != others or end - start == tile_size


@given(SEGMENTS, TILES)
def test_pairs_share_no_scratch(segments: list[SlotSegment], tile_size: int) -> None:
    arrays = plan_tiles(segments, tile_size, _hidden_of)
    at = 0
    for place, rows, slot in zip(
        arrays.pair_hidden, arrays.pair_rows, arrays.pair_slot, strict=True
    ):
        assert place == at
        at += rows * _hidden_of(slot)
    assert at == arrays.hidden_floats


def test_buffers_hold_what_fits_and_say_what_does_not() -> None:
    buffers = PlanBuffers(3, 4, 100, DECODE_TILE, HERE)
    for segments in ([(0, 40, 1, 0.5)], [(0, 3, 1, 1.0), (2, 5, 2, 1.0)], []):
        arrays = plan_tiles([SlotSegment(*s) for s in segments], DECODE_TILE, lambda slot: slot)
        assert buffers.fits(arrays)
        buffers.fill(arrays)
        assert list(buffers.plan.tiles()) == list(arrays.to(CPU).tiles())
        used = len(arrays.pair_slot)
        assert buffers.plan.pair_rows.tolist() == [*arrays.pair_rows, *[0] * (4 - used)]
        assert buffers.plan.pair_offsets.tolist()[len(arrays.tile_rows) :] == [used] * (
            4 - len(arrays.tile_rows)
        )
    for segments, tile_size, hidden in [
        ([(0, 1, 0, 1.0), (2, 3, 0, 1.0), (4, 5, 0, 1.0), (6, 7, 0, 1.0)], DECODE_TILE, 1),
        ([(0, 1, slot, 1.0) for slot in range(5)], DECODE_TILE, 1),
        ([(0, 2, 0, 1.0)], DECODE_TILE, 51),
        ([(0, 1, 0, 1.0)], PREFILL_TILE, 1),
    ]:

        def hidden_of(slot: int, hidden: int = hidden) -> int:
            return hidden

        arrays = plan_tiles([SlotSegment(*s) for s in segments], tile_size, hidden_of)
        assert not buffers.fits(arrays)
        with pytest.raises(ValueError, match="do not fit"):
            buffers.fill(arrays)


def test_arrays_are_aligned_alike_in_every_plan() -> None:
    """Triton compiles a kernel anew for arguments of another alignment."""
    for rows in range(1, 9):
        segments = [SlotSegment(0, rows, 0, 1.0), SlotSegment(rows, 2 * rows, 1, 1.0)]
        plan: LoraPlan = plan_tiles(segments, 1, lambda slot: 4).to(HERE)
        for name, tensor in vars(plan).items():
            if isinstance(tensor, torch.Tensor):
                assert tensor.data_ptr() % 16 == 0, name


@pytest.mark.parametrize("tile_size", [DECODE_TILE, PREFILL_TILE])
def test_splits_cover_the_inputs_once(tile_size: int) -> None:
    for inputs in [1, 127, 128, 129, 576, 4096, 14336, 65536]:
        count, each = splits(inputs, tile_size)
        assert (count - 1) * each < inputs <= count * each
        assert each % 128 == 0
    groups = [
        SimpleNamespace(in_features=4096, outs=(4, 1, 1)),
        SimpleNamespace(in_features=128, outs=(4,)),
    ]
    assert hidden_per_row(16, groups, tile_size) == 16 * 3 * splits(4096, tile_size)[0]  # type: ignore[arg-type]
