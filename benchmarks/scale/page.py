"""The page's tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.paths import RESULTS, ROOT
from benchmarks.common.report import told
from benchmarks.common.tables import fill, table

from .against import differences
from .plot import draw_capacity, draw_changes

COSTS, COMPARED, SCALE = (
    RESULTS / f"{name}.json" for name in ("scale-costs", "scale-compare", "scale")
)
PAGE = ROOT / "docs/results/scale.md"
_PICTURES = ROOT / "docs/results"
_PROCESSES = {"front": "the server", "envoy": "Envoy", "client": "the client"}
_OF_PROCESS = {"wake": "waking up", "call": "a call", "token": "a token"}
_CHANGES = {"lost": "a replica is lost", "hot": "a tenant gets hot"}


def write() -> None:
    """Write what there are results for."""
    tables: dict[str, str] = {}
    for path, made in (
        (COSTS, tables_of_costs),
        (COMPARED, tables_of_compared),
        (SCALE, tables_of_scale),
    ):
        if path.exists():
            tables |= made(json.loads(path.read_text()))
    fill(PAGE, tables)
    if SCALE.exists():
        draw(json.loads(SCALE.read_text()), _PICTURES)


def draw(report: Mapping[str, Any], folder: Path) -> None:
    """Draw the pictures of a report of the studies."""
    draw_capacity(report, folder / "scale-capacity.png")
    for study, title in _CHANGES.items():
        draw_changes(report[study], title, folder / f"scale-{study}.png")


def tables_of_costs(report: Mapping[str, Any]) -> dict[str, str]:
    """Make the table of what things take."""
    head = ("ms of a core", *report["costs"])
    bases = list(report["costs"].values())
    rows = [
        ("a step", *(_ms(base["steps"]["step"]) for base in bases)),
        ("a decode row", *(_ms(base["steps"]["decode_row"]) for base in bases)),
        ("a prompt token", *(_ms(base["steps"]["prefill_token"]) for base in bases)),
        ("a distinct adapter of a step", *(_ms(base["steps"]["adapter"]) for base in bases)),
        ("a load, median", *(_ms(median(base["loads"])) for base in bases)),
        *(
            (f"{title}, {what}", *(_ms(base[process][field]) for base in bases))
            for process, title in _PROCESSES.items()
            for field, what in _OF_PROCESS.items()
        ),
        (
            "longer beside another process",
            *(f"{base['beside'] - 1:.0%}" for base in bases),
        ),
        ("steps beside the formula, median", *(f"{base['step_error']:.0%}" for base in bases)),
    ]
    return {"costs": table(head, rows) + _machine(report)}


def tables_of_compared(report: Mapping[str, Any]) -> dict[str, str]:
    """Make the tables of measurement beside simulation."""
    head = ("load", "policy", "loads of 1,000", "TTFT p50, ms", "highest / mean", "calls/s")
    rows = [
        (
            cell,
            name,
            *(_pair(found[what], digits) for what, digits in _COMPARED_COLUMNS),
        )
        for cell, policies in report["cells"].items()
        for name, found in policies.items()
    ]
    said = [
        (f"{title}, {base}", *_within(differences(report["cells"], base, what)))
        for base in dict.fromkeys(cell.partition("-")[0] for cell in report["cells"])
        for what, title in _COMPARED.items()
    ]
    within = table(("", "median difference", "largest", "within 10 %"), said)
    return {"compared": table(head, rows), "within": within + _machine(report)}


_COMPARED = {"loads_per_1000": "loads", "ttft_p50_ms": "TTFT p50", "calls_per_s": "calls/s"}
_COMPARED_COLUMNS = (("loads_per_1000", 0), ("ttft_p50_ms", 1), ("balance", 2), ("calls_per_s", 0))


def _within(found: Sequence[float]) -> tuple[str, str, str]:
    sizes = [abs(value) for value in found]
    near = sum(size <= 0.1 for size in sizes)
    return f"{median(sizes):.0%}", f"{max(sizes):.0%}", f"{near} of {len(sizes)}"


def tables_of_scale(report: Mapping[str, Any]) -> dict[str, str]:
    """Make the tables of the studies."""
    head = (
        "policy",
        "calls/s of the fleet",
        "replicas for a million requests a day",
        "loads of 1,000",
        "TTFT p50, p99 ms",
        "highest / mean",
    )
    rows = [_capacity_row(name, found) for name, found in report["capacity"].items()]
    return {
        "capacity": table(head, rows) + _machine(report),
        "lost": _changes_table(report["lost"]),
        "hot": _changes_table(report["hot"]),
    }


def _capacity_row(name: str, found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    rates = [one["calls_per_s"] for one in found]
    needed = [one["replicas_per_million_a_day"] for one in found]
    best = [one for one in found if "loads_per_1000" in one]
    if not best:
        return name, *("–",) * 5
    return (
        name,
        _range(rates, 0),
        _range(needed, 2),
        f"{_mean(best, 'loads_per_1000'):.0f}",
        f"{_mean(best, 'ttft_p50_ms'):.0f}, {_mean(best, 'ttft_p99_ms'):.0f}",
        f"{_mean(best, 'balance'):.2f}",
    )


def _changes_table(study: Mapping[str, Any]) -> str:
    head = (
        "policy",
        "loads a second: before, most, at the end",
        "TTFT p99, ms: before, most, at the end",
        "cut off",
    )
    rows: list[tuple[str, ...]] = []
    for name, found in study.items():
        if not found["keeps_up"]:
            rows.append((name, "does not keep up", "–", "–"))
            continue
        phases = [_phases(found, what) for what in ("loads", "ttft_p99_ms")]
        rows.append((name, *(", ".join(f"{v:.0f}" for v in p) for p in phases), str(found["lost"])))
    return table(head, rows)


def _phases(found: Mapping[str, Any], what: str) -> tuple[float, float, float]:
    """Median of the seconds before, the most after, and the median of the last third."""
    pairs = list(zip(found["second"], found[what], strict=True))
    before = [value for second, value in pairs if second < 0]
    after = [value for second, value in pairs if second >= 0]
    return median(before), max(after), median(after[-len(after) // 3 :])


def _mean(found: Sequence[Mapping[str, Any]], what: str) -> float:
    return sum(float(one[what]) for one in found) / len(found)


def _range(values: Sequence[float], digits: int) -> str:
    middle = f"{sum(values) / len(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _pair(pair: Sequence[float], digits: int) -> str:
    """What was measured, and what was simulated."""
    return f"{pair[0]:.{digits}f} / {pair[1]:.{digits}f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}"


def _machine(report: Mapping[str, Any]) -> str:
    return f"\n{told(report['machine'])}.\n"
