"""The table at the end of a lease: what it says of rows that were measured, and of those that were
not."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu.predictions import Line, found_in, lines
from benchmarks.gpu.summary import show


def data(**stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "stages": {
            name: {
                "status": "done",
                "seconds": 1.0,
                "rows": [{"name": n, **row} for n, row in rows.items()],
            }
            for name, rows in stages.items()
        }
    }


def told(found: dict[str, Any]) -> dict[str, Line]:
    return {line.what: line for line in lines(found_in(found))}


DECODE = {
    "llama-3-8b decode 32 x 1 over 1024, base": {
        "device_ms": 8.0,
        "floor_ms": 6.4,
        "of_floor": 0.8,
    },
    "llama-3-8b decode 32 x 1 over 1024, 32 x rank 16": {
        "device_ms": 10.0,
        "floor_ms": 7.2,
        "of_floor": 0.72,
    },
}


def test_steps_are_set_against_the_measured_floor() -> None:
    table = told(data(decode=DECODE))
    assert table["decode, 32 rows, base: device ms"] == Line(
        "decode, 32 rows, base: device ms", "10.1", "6.40", "", "8.00"
    )
    assert table["decode, 32 rows, base: share of the floor"].measured == "80%"
    tax = table["decode, 32 rows, 32 adapters: more than the base"]
    assert (tax.measured, tax.floor, tax.goal) == ("25.0%", "12.5%", "≤ 16.9%")


def test_the_engine_is_set_against_the_steps() -> None:
    host = {"own_us_per_row": 52.0, "sample_ms": 4.25}
    engine: dict[str, dict[str, Any]] = {
        "32 streams, 32 adapters, greedy": {"tokens_per_s": 1600.0},
        "128 streams, 32 adapters, greedy": {"tokens_per_s": 1.0, "host": host},
        "128 streams, 32 adapters, top_p": {"host": host},
    }
    table = told(data(decode=DECODE, engine=engine))
    assert table["engine, 32 streams: tokens/s by rows / device ms"].measured == "0.50"
    assert (
        table["engine, 128 streams: tokens/s by rows / device ms"].measured == ""
    )  # no step of 128 rows
    assert table["engine, 128 streams: host µs a row"].measured == "52"
    assert table["engine, 128 streams, top_p: sampling ms a step"].measured == "4.2"


def test_what_was_not_measured_has_the_data_sheet_s_floor() -> None:
    table = told(data())
    assert {line.measured for line in table.values()} == {""}
    assert float(table["decode, 1 row, base: device ms"].floor) == pytest.approx(4.52, abs=0.01)


def test_what_is_wrong_is_shown() -> None:
    found = data(
        environment={"machine": {"device": "a card", "interpreter": False}},
        stress={"lora qkv": {"good": False}, "lora down": {"good": True}},
    )
    found["way_out"] = {"LORAMUX_PREFILL_TILES": "mma"}
    text = show(found)
    assert "WRONG stress: lora qkv" in text
    assert "lora down" not in text
    assert "LORAMUX_PREFILL_TILES" in text
    assert text.startswith("a card")
