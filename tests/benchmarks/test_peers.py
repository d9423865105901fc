"""The ways in which others compute LoRA: right, or told that they are not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import peers
from benchmarks.gpu.machine import Ceilings
from benchmarks.gpu.peers.inputs import Inputs, draw
from benchmarks.gpu.peers.measure import check, times
from benchmarks.gpu.peers.variant import Variant, behind_base
from benchmarks.gpu.places import SCALING, Place, drawn
from benchmarks.gpu.session.context import Context
from benchmarks.gpu.stages import peers as stage
from tests.support.device import DEVICE, ON_GPU

PLACE, COUNTS, RANK = Place("two projections", 96, (64, 32)), (2, 1, 2), 16
DTYPES = [torch.bfloat16] if ON_GPU else [torch.float32, torch.bfloat16]


def inputs_of(dtype: torch.dtype) -> Inputs:
    return draw(PLACE, COUNTS, RANK, 2, drawn(torch.device(DEVICE), dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", peers.VARIANTS)
def test_each_way_equals_float64(name: str, dtype: torch.dtype) -> None:
    if name == "PEFT's loop":
        pytest.importorskip("peft")
    with torch.inference_mode():
        inputs = inputs_of(dtype)
        row = check(peers.VARIANTS[name](inputs), inputs)
    assert row["good"], row
    assert row["error"] > 0


def rows_of_others(inputs: Inputs) -> Variant:
    """The adapters' part, of the slot after each row's own."""
    slots = (inputs.slots.long() + 1) % inputs.adapters.slots

    def lora(layer: int, y: torch.Tensor) -> None:
        for row, slot in enumerate(slots.tolist()):
            for i, columns in enumerate(PLACE.columns):
                a, b = inputs.adapters.of(slot, layer, i)
                y[row, columns] += SCALING * (inputs.x[row] @ a.t() @ b.t())

    return behind_base(inputs, lora)


def nothing_written(inputs: Inputs) -> Variant:
    scratch = torch.zeros_like(inputs.base(0))
    return Variant(lambda layer: scratch, scratch=(scratch,))


def without_adapters(inputs: Inputs) -> Variant:
    return Variant(inputs.base)


@pytest.mark.parametrize("wrong", [rows_of_others, nothing_written, without_adapters])
def test_a_wrong_way_is_told(wrong: Any) -> None:
    with torch.inference_mode():
        inputs = inputs_of(DTYPES[0])
        row = check(wrong(inputs), inputs)
    assert row["good"] is False


def test_times_say_what_they_are_of() -> None:
    top = Ceilings(1e9, 1e12)
    with torch.inference_mode():
        inputs = inputs_of(DTYPES[0])
        merged, gathered = (
            times(peers.VARIANTS[name](inputs), inputs, top, inputs.x.device, 1)
            for name in ("merged", "gathered bmm")
        )
    assert "lora_us" not in merged
    assert merged["floor_us"] < gathered["floor_us"]  # which has the adapters' bytes
    assert gathered["lora_floor_us"] == pytest.approx(gathered["floor_us"] - merged["floor_us"])
    assert gathered["of_floor"] == pytest.approx(gathered["floor_us"] / gathered["us"])


def test_one_that_raises_or_is_wrong_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(inputs: Inputs) -> Variant:
        raise NotImplementedError("not for these shapes")

    ways = {
        "merged": peers.VARIANTS["merged"],
        "refused": refused,
        "wrong": rows_of_others,
        "gathered bmm": peers.VARIANTS["gathered bmm"],
    }
    monkeypatch.setattr(stage, "VARIANTS", ways)
    monkeypatch.setattr(stage, "LAST", ())
    monkeypatch.setattr(stage, "TINY_SIZES", ((3, 2, 4),))
    monkeypatch.setattr(stage, "places", lambda shape: [PLACE])
    sent: list[dict[str, Any]] = []
    known = {
        "name": "two projections 3 rows, 2 x rank 4: merged",
        "us": 1.0,
        "good": True,
        "earlier": True,
    }
    stage.run(
        Context(
            "peers",
            "cpu",
            1,
            tmp_path,
            tmp_path,
            {"peers": [known]},
            sent.append,
            time.monotonic() + 60,
        )
    )
    rows = {row["name"].partition(": ")[2]: row for row in sent}
    assert rows.keys() == {"refused", "wrong", "gathered bmm"}  # and not what was there
    assert "not for these shapes" in rows["refused"]["error"]
    assert "good" not in rows["refused"]
    assert rows["wrong"]["good"] is False
    assert "us" not in rows["wrong"]
    assert rows["gathered bmm"]["us"] > 0
