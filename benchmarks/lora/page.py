"""The tables of docs/results/lora.md, from the results: all between `<!-- table NAME -->` and `<!--
end -->`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import tables
from benchmarks.common.tables import table

from .data import TASKS
from .plots import bottleneck_keys
from .specs import Plan, budget_key, init_key, rank_key
from .store import Store

_NONE = "–"
_SPIKE = 1.1
"""Times the first loss: rows differ by a few hundredths of it."""


def write_page(plan: Plan, store: Store, page: Path) -> None:
    """Replace the tables of the page; a page that is not there yet is made of tables alone."""
    text = (
        page.read_text()
        if page.exists()
        else "".join(f"<!-- table {n} -->\n<!-- end -->\n\n" for n in TABLES)
    )
    page.write_text(filled(text, plan, store))


def filled(text: str, plan: Plan, store: Store) -> str:
    """`text` with the tables of the results. Raises KeyError for a table that there is not."""
    return tables.filled(text, {name: TABLES[name](plan, store) for name in tables.named(text)})


def setup(plan: Plan, store: Store) -> str:
    runs = store.runs()
    if not runs:
        return ""
    about = store.load("runs")["about"]
    base = store.load("compositions").get("base", {})
    losses = ", ".join(f"{task} {base[task]['loss']:.2f}" for task in TASKS if base)
    steps = max(run["settings"]["steps"] for run in runs.values())
    return table(
        ("", ""),
        [
            ("base", about["base"]),
            ("steps, rows a step", f"{steps}, 8"),
            (
                "runs that are there, that are planned",
                f"{len(runs)}, {len(plan.specs(budget=1, width=1))}",
            ),
            (
                "their seconds together, two at a time",
                f"{sum(run['seconds'] for run in runs.values()):,.0f}",
            ),
            ("machine, date", f"{about['cpu']}, {about['date']}"),
            ("held-out loss of the base", losses or _NONE),
        ],
    )


def init(plan: Plan, store: Store) -> str:
    runs = store.runs()
    rows = []
    for rate in plan.rates:
        keys = {i: [init_key(i, rate, s) for s in plan.seeds] for i in "AB"}
        rows.append(
            (
                f"{rate:g}",
                _losses(runs, keys["A"]),
                _losses(runs, keys["B"]),
                _exact(runs, keys["A"]),
                _exact(runs, keys["B"]),
            )
        )
    losses = table(
        ("learning rate", "Init[A]: loss", "Init[B]: loss", "Init[A]: exact", "Init[B]: exact"),
        rows,
    )
    best = {
        i: min(
            (
                (m, r)
                for r in plan.rates
                if (m := _mean(runs, [init_key(i, r, s) for s in plan.seeds]))
            ),
            default=None,
        )
        for i in "AB"
    }
    lines = [
        f"Init[{i}]: best mean loss {found[0]:.3f} at {found[1]:g}, largest stable rate "
        f"{stable_rate(plan, runs, i) or 'none'}."
        for i, found in best.items()
        if found
    ]
    return f"{losses}\n{' '.join(lines)}\n"


def stable_rate(plan: Plan, runs: dict[str, Any], init: str) -> float | None:
    """The largest rate up to which no step of any run has a loss clearly over the first one's, the
    base's own."""
    stable = None
    for rate in sorted(plan.rates):
        found = [runs[k] for s in plan.seeds if (k := init_key(init, rate, s)) in runs]
        if not found or not all(_is_stable(run) for run in found):
            break
        stable = rate
    return stable


def _is_stable(run: dict[str, Any]) -> bool:
    return "test_loss" in run and max(run["losses"]) <= _SPIKE * run["losses"][0]


def features(plan: Plan, store: Store) -> str:
    runs = store.runs()
    rows = []
    for rate in plan.rates:
        for i in "AB":
            found = [
                row
                for s in plan.seeds
                for row in runs.get(init_key(i, rate, s), {}).get("features", [])
            ]
            if found:
                rows.append((f"{rate:g}, Init[{i}]", *_feature_cells(found)))
    return table(
        (
            "learning rate",
            "A x after 1 step",
            "… at the end",
            "s B A x / W x at the end",
            "what a step changes by A alone",
            "… by B alone",
            "… by both",
        ),
        rows,
    )


def _feature_cells(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Means over modules and seeds."""
    steps = sorted({row["step"] for row in rows})
    # the schedule ends at a rate of 0: what a step changes is looked at half-way through the probed
    # ones
    first, middle, last = (
        [row for row in rows if row["step"] == step]
        for step in (steps[0], steps[len(steps) // 2], steps[-1])
    )
    ratio = sum(row["z_b"] / row["base"] for row in last) / len(last)
    cells = [_number(sum(r["z_a"] for r in part) / len(part)) for part in (first, last)]
    parts = [_number(sum(r[name] for r in middle) / len(middle)) for name in ("d1", "d2", "d3")]
    return (*cells, _number(ratio), *parts)


def budget(plan: Plan, store: Store) -> str:
    runs = store.runs()
    keys = {name: [budget_key(plan, name, s) for s in plan.seeds] for name in plan.budgets}
    rows = [
        (name, _ranks(_first(runs, keys[name])), *scores) for name, *scores in _scores(runs, keys)
    ]
    return table(("adapted", "rank", "parameters", "loss", "exact"), rows)


def _ranks(run: dict[str, Any]) -> str:
    found = run.get("ranks", {"": run["settings"]["rank"]})
    return " and ".join(map(str, sorted(set(found.values()))))


def rank(plan: Plan, store: Store) -> str:
    keys = {str(value): [rank_key(plan, value, s) for s in plan.seeds] for value in plan.ranks}
    return table(("rank", "parameters", "loss", "exact"), _scores(store.runs(), keys))


def overlap(plan: Plan, store: Store) -> str:
    rows = []
    for name, pair in store.load("overlap").items():
        for kind in ("q_proj", "v_proj"):
            found = pair[kind]
            for what, diagonal in (
                ("A", found["A mean"]),
                ("B A", found["BA mean"]),
                ("random", found["random"]),
            ):
                rows.append(
                    (f"{name}: {kind}", what, *(_at(diagonal, n) for n in (1, 2, 4, 8, 64)))
                )
    return table(("adapters", "of", *(f"φ({n}, {n})" for n in (1, 2, 4, 8, 64))), rows)


def energy(plan: Plan, store: Store) -> str:
    rows = {
        kind: (kind, *(f"{sum(pair[kind]['energy'][:n]):.0%}" for n in (1, 2, 4, 8, 16)))
        for pair in store.load("overlap").values()
        for kind in ("q_proj", "v_proj")
    }
    return table(
        (f"rank {max(plan.ranks)}", "1 direction", "2", "4", "8", "16"), list(rows.values())
    )


def served(plan: Plan, store: Store) -> str:
    rows = []
    for name, scores in store.load("compositions").items():
        cells = (
            f"{scores[task][what]:.{digits}f}"
            for task in TASKS
            for what, digits in (("loss", 3), ("exact", 2), ("served", 2))
        )
        rows.append((name, *cells))
    return table(
        ("adapters", "orders: loss", "exact", "served", "bookings: loss", "exact", "served"), rows
    )


def bottleneck(plan: Plan, store: Store) -> str:
    return table(("", "parameters", "loss", "exact"), _scores(store.runs(), bottleneck_keys(plan)))


TABLES: dict[str, Callable[[Plan, Store], str]] = {
    "setup": setup,
    "init": init,
    "features": features,
    "budget": budget,
    "rank": rank,
    "overlap": overlap,
    "energy": energy,
    "served": served,
    "bottleneck": bottleneck,
}


def _scores(runs: dict[str, Any], keys: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Name, parameters, losses and exact answers, of what has a run at all."""
    return [
        (
            name,
            f"{_first(runs, of_seeds)['parameters']:,}",
            _losses(runs, of_seeds),
            _exact(runs, of_seeds),
        )
        for name, of_seeds in keys.items()
        if any(k in runs for k in of_seeds)
    ]


def _first(runs: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return next(runs[k] for k in keys if k in runs)


def _losses(runs: dict[str, Any], keys: Sequence[str]) -> str:
    """Of each seed."""
    found = [runs[k] for k in keys if k in runs]
    return (
        ", ".join(f"{run['test_loss']:.3f}" if "test_loss" in run else "diverged" for run in found)
        or _NONE
    )


def _exact(runs: dict[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{runs[k].get('exact', 0):.2f}" for k in keys if k in runs) or _NONE


def _mean(runs: dict[str, Any], keys: Sequence[str]) -> float | None:
    """None unless every run that is there has a loss."""
    losses = [runs[k].get("test_loss") for k in keys if k in runs]
    known = [x for x in losses if x is not None]
    return sum(known) / len(known) if known and len(known) == len(losses) else None


def _at(values: Sequence[float], place: int) -> str:
    return f"{values[place - 1]:.2f}" if place <= len(values) else _NONE


def _number(value: float) -> str:
    return f"{value:.3g}"
