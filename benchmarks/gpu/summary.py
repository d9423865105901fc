"""The tables at the end of a lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.predictions import found_in, lines


def show(data: dict[str, Any]) -> str:
    """For a terminal: the stages with what is wrong in them, then predicted, floor, goal and
    measured."""
    machine = found_in(data).get("environment", {}).get("machine", {})
    interpreted = (
        ", in Triton's interpreter: times mean nothing" if machine.get("interpreter") else ""
    )
    found = [
        f"{machine.get('device', 'no machine')}, torch {machine.get('torch')}, triton {machine.get('triton')}"
        + interpreted,
        "",
    ]
    if data.get("way_out"):
        found.append(f"WITH A WAY OUT: {data['way_out']}")
    found += _columns(
        ("stage", "", "s", "rows"), [_stage(name, stage) for name, stage in data["stages"].items()]
    )
    found += [
        f"WRONG {name}: {row['name']}"
        for name, stage in data["stages"].items()
        for row in stage["rows"]
        if not row.get("good", True)
    ]
    found += [
        "",
        *_columns(
            ("Llama 3 8B on an H100", "predicted", "floor", "goal", "measured"),
            [(n.what, n.predicted, n.floor, n.goal, n.measured) for n in lines(found_in(data))],
        ),
    ]
    return "\n".join(found)


def _stage(name: str, stage: dict[str, Any]) -> tuple[str, ...]:
    earlier = ", of an earlier lease" if stage.get("earlier") else ""
    return name, stage["status"] + earlier, f"{stage['seconds']:.0f}", str(len(stage["rows"]))


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cells[i]) for cells in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in (head, *rows)
    ]
