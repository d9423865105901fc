"""The stress finds what is wrong now and then, what is wrong in one tile of many, and what is not
finite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.gpu.cost import TINY
from benchmarks.gpu.stress import TOLERANCE, Sizes, attention_cases, lora_cases, worst_row
from lora_runtime.kernels import PlannedKernels, select
from lora_runtime.kernels.fused_update import update_group_reference

CPU = torch.device("cpu")
SIZES = Sizes((33,), (8,), 4, 7)
REFERENCES = PlannedKernels(**vars(select(CPU, "torch")), update_group=update_group_reference)


def results(kernels: Any, dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    return [
        run()
        for make in (lora_cases, attention_cases)
        for _, run in make(kernels, TINY, SIZES, dtype, CPU)
    ]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_references_are_good(dtype: torch.dtype) -> None:
    found = results(REFERENCES, dtype)
    assert len(found) == 3 + 4
    assert all(row["good"] for row in found), found


@pytest.mark.parametrize("value", [1.5, torch.nan])
def test_what_is_wrong_once_is_found(value: float) -> None:
    calls = 0

    def sometimes(y: torch.Tensor, *rest: Any) -> None:
        nonlocal calls
        update_group_reference(y, *rest)
        calls += 1
        if calls % 4 == 3:
            y[0, 0] += value

    for row in results(replace(REFERENCES, update_group=sometimes))[:3]:
        assert (row["good"], row["different"]) == (False, 1)


def test_one_wrong_tile_among_many_is_found() -> None:
    """The error of all values does not tell it, that of rows does."""
    exact = torch.randn(1024, 2048, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = exact.clone()
    found[:8, :8] += 0.3
    overall = float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    assert (
        overall
        < TOLERANCE[torch.bfloat16]
        < 1.5 * TOLERANCE[torch.bfloat16]
        < worst_row(found, exact)
    )
