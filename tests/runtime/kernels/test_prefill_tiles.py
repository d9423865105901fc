"""The switch that keeps prefill off Hopper's wide products: the same results from narrower tiles,
nothing unknown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lora_runtime.kernels import prefill_tiles
from lora_runtime.kernels.attention import paged_attention_reference
from lora_runtime.kernels.prefill_tiles import MOST_MMA_ROWS
from lora_runtime.kernels.triton import attention_tiles, lora_tiles
from lora_runtime.kernels.triton.attention import paged_attention
from lora_runtime.kernels.triton.lora import update_group

from ...support.attention import PagedCase
from ...support.device import DEVICE, TOLERANCE
from ...support.grouped import random_step

HEADS = [
    attention_tiles.Heads(*h)
    for h in ((32, 8, 128, 128), (66, 1, 16, 16), (8, 4, 256, 256), (32, 1, 512, 512))
]


@pytest.fixture
def _mma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_tiles, "KIND", "mma")


@pytest.mark.usefixtures("_mma")
def test_no_tile_has_rows_for_wide_products() -> None:
    for heads in HEADS:
        for dtype in TOLERANCE:
            tiles = (
                attention_tiles.chunk_tile(heads, dtype),
                attention_tiles.decode_tile(heads, dtype),
            )
            assert all(tile.rows <= MOST_MMA_ROWS for tile in tiles)


def test_unless_they_are_chosen_nothing_is_narrower() -> None:
    assert os.environ.get(prefill_tiles.VARIABLE, "wgmma") == prefill_tiles.KIND
    assert attention_tiles.chunk_tile(HEADS[0], torch.bfloat16).rows == (
        128 if prefill_tiles.KIND == "wgmma" else 32
    )
    assert set(lora_tiles.PREFILL) == set(prefill_tiles.KINDS)


@pytest.mark.usefixtures("_mma")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_lora_equals_float64(dtype: torch.dtype) -> None:
    step = random_step(torch.Generator().manual_seed(11), dtype, DEVICE)
    expected, tolerance = step.expected(), TOLERANCE[dtype]
    update_group(step.y, step.x, step.group, step.plan(MOST_MMA_ROWS), step.table)
    scale = float(expected.abs().max())
    torch.testing.assert_close(step.y.double(), expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.slow
@pytest.mark.usefixtures("_mma")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_attention_equals_the_reference(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(3)
    case = PagedCase.random(g, 66, 1, 16, 24, dtype, 16, [(1, 4), (37, 0), (20, 51)], DEVICE)
    found = paged_attention(case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3, window=40)
    expected = paged_attention_reference(
        case.q, case.k_cache, case.v_cache, case.plan, scaling=0.3, window=40
    )
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


@pytest.mark.slow
def test_the_switch_is_read_at_start_and_refuses_what_it_does_not_know() -> None:
    assert prefill_tiles.chosen(None) == prefill_tiles.chosen("") == "wgmma"
    program = "from lora_runtime.kernels.plan import PREFILL_TILE; print(PREFILL_TILE)"
    for value, told in (
        ("mma", f"{MOST_MMA_ROWS}\n"),
        ("wide", "must be one of wgmma, mma, got 'wide'"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, prefill_tiles.VARIABLE: value},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=False,
        )
        assert told in done.stdout + done.stderr
