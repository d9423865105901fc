"""The pictures of docs/results/lora.md, from the results; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from .specs import Plan, bottleneck_key, budget_key, init_key, rank_key
from .store import Store

_COLOURS = {"A": "#1b6ca8", "B": "#b0413e"}
_GREY, _GREEN, _ORANGE = "#777777", "#5a9e4b", "#e08e0b"
_DPI = 110


def draw_all(plan: Plan, store: Store, docs: Path) -> None:
    """lora-init.png, lora-budget.png, lora-rank.png, lora-combine.png; what is not measured yet is
    left out."""
    docs.mkdir(parents=True, exist_ok=True)
    _init(plan, store).savefig(docs / "lora-init.png", dpi=_DPI)
    _budget(plan, store).savefig(docs / "lora-budget.png", dpi=_DPI)
    _rank(plan, store).savefig(docs / "lora-rank.png", dpi=_DPI)
    _combine(plan, store).savefig(docs / "lora-combine.png", dpi=_DPI)
    plt.close("all")


def _init(plan: Plan, store: Store) -> Any:
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.1), layout="constrained")
    runs = store.runs()
    for init, colour in _COLOURS.items():
        _seeds(
            axes[0],
            plan.rates,
            [[init_key(init, r, s) for s in plan.seeds] for r in plan.rates],
            runs,
            colour,
            f"Init[{init}]",
        )
        for key, rate in ((init_key(init, r, plan.seeds[0]), r) for r in plan.rates):
            rows = runs.get(key, {}).get("features", [])
            if rate == plan.rate and rows:
                steps = sorted({row["step"] for row in rows})
                axes[1].plot(
                    steps,
                    [_mean(rows, s, "z_a") for s in steps],
                    color=colour,
                    label=f"Init[{init}]",
                )
                for part, style in (("d1", ":"), ("d2", "-")):
                    who = {"d1": "A learns", "d2": "B learns"}[part]
                    axes[2].plot(
                        steps,
                        [_mean(rows, s, part) for s in steps],
                        color=colour,
                        linestyle=style,
                        label=f"Init[{init}], {who}",
                    )
        found = [
            (r, runs[k]["features"])
            for r in plan.rates
            if runs.get(k := init_key(init, r, plan.seeds[0]), {}).get("features")
        ]
        last = {r: max(row["step"] for row in rows) for r, rows in found}
        axes[3].plot(
            [r for r, _ in found],
            [_mean(rows, last[r], "z_a") for r, rows in found],
            "o-",
            markersize=3,
            color=colour,
            label=f"Init[{init}]: A x",
        )
        axes[3].plot(
            [r for r, _ in found],
            [_ratio(rows, last[r]) for r, rows in found],
            "s:",
            markersize=3,
            color=colour,
            label=f"Init[{init}]: s B A x / W x",
        )
    titles = (
        "held-out loss",
        f"|A x| at rate {plan.rate:g}",
        f"change of s B A x in a step, rate {plan.rate:g}",
        "at the last step",
    )
    for axis, title, label in zip(
        axes, titles, ("learning rate", "step", "step", "learning rate"), strict=True
    ):
        _dress(axis, title, label)
        axis.set_yscale("log")
    axes[0].set_xscale("log")
    axes[3].set_xscale("log")
    return figure


def _mean(rows: Sequence[dict[str, Any]], step: int, name: str) -> float:
    """Over the probed modules."""
    values = [row[name] for row in rows if row["step"] == step]
    return sum(values) / len(values)


def _ratio(rows: Sequence[dict[str, Any]], step: int) -> float:
    """Length of the update beside that of the base's own output, mean over modules."""
    values = [row["z_b"] / row["base"] for row in rows if row["step"] == step]
    return sum(values) / len(values)


def _budget(plan: Plan, store: Store) -> Any:
    figure, axis = plt.subplots(figsize=(5.5, 2.4), layout="constrained")
    runs = store.runs()
    _points(
        axis, {name: [budget_key(plan, name, s) for s in plan.seeds] for name in plan.budgets}, runs
    )
    _dress(axis, "held-out loss, one budget, by adapted projections", "", legend=False)
    return figure


def _rank(plan: Plan, store: Store) -> Any:
    figure = plt.figure(figsize=(13, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 5, width_ratios=(1.5, 1, 1, 1, 1))
    axis = figure.add_subplot(grid[:, 0])
    _seeds(
        axis,
        plan.ranks,
        [[rank_key(plan, r, s) for s in plan.seeds] for r in plan.ranks],
        store.runs(),
        _COLOURS["A"],
        "q and v",
    )
    _dress(axis, "held-out loss", "rank", legend=False)
    axis.set_xscale("log", base=2)
    axis.set_xticks(plan.ranks, [str(r) for r in plan.ranks])
    for row, (name, pair) in enumerate(store.load("overlap").items()):
        for column, (kind, what) in enumerate(
            (k, w) for k in ("q_proj", "v_proj") for w in ("A", "BA")
        ):
            axis = figure.add_subplot(grid[row, column + 1])
            image = axis.imshow(
                pair[kind][what],
                vmin=0,
                vmax=1,
                aspect="auto",
                origin="lower",
                cmap="magma",
                extent=(0.5, len(pair[kind][what][0]) + 0.5, 0.5, len(pair[kind][what]) + 0.5),
            )
            _dress(axis, f"{name}\n{kind}, {what}", "j", legend=False)
            axis.set_ylabel("i", fontsize=7)
            if column == 3:
                figure.colorbar(image, ax=axis).ax.tick_params(labelsize=6)
    return figure


def _combine(plan: Plan, store: Store) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.4), layout="constrained")
    composed = store.load("compositions")
    names = list(composed)
    for place, (task, colour) in enumerate((("orders", _COLOURS["A"]), ("bookings", _ORANGE))):
        bars = axes[0].barh(
            [i + 0.4 * place for i in range(len(names))],
            [composed[n][task]["loss"] for n in names],
            height=0.38,
            color=colour,
            label=task,
        )
        axes[0].bar_label(bars, fmt="%.2f", padding=2, fontsize=6)
    axes[0].margins(x=0.1)
    axes[0].set_yticks([i + 0.2 for i in range(len(names))], names)
    axes[0].invert_yaxis()
    _dress(axes[0], "held-out loss of adapters alone and together", "", legend=bool(names))
    _points(axes[1], bottleneck_keys(plan), store.runs())
    _dress(axes[1], "held-out loss of orders, equal parameters", "", legend=False)
    return figure


def bottleneck_keys(plan: Plan) -> dict[str, list[str]]:
    """Runs by method, those of all seeds."""
    return {
        f"LoRA, rank {plan.rank}": [init_key("A", plan.rate, s) for s in plan.seeds],
        **{
            f"bottleneck, rate {r:g}": [bottleneck_key(r, s) for s in plan.seeds]
            for r in plan.bottleneck_rates
        },
        "half LoRA, half bottleneck": [f"LoRA and bottleneck s{s}" for s in plan.seeds],
    }


def _seeds(
    axis: Any,
    places: Sequence[float],
    keys: Sequence[Sequence[str]],
    runs: dict[str, Any],
    colour: str,
    label: str,
) -> None:
    """A dot per run that has a loss, and a line through the means."""
    means = []
    for place, of_seeds in zip(places, keys, strict=True):
        losses = [runs[k]["test_loss"] for k in of_seeds if "test_loss" in runs.get(k, {})]
        axis.plot([place] * len(losses), losses, "o", color=colour, markersize=3, alpha=0.6)
        if losses:
            means.append((place, sum(losses) / len(losses)))
    axis.plot([p for p, _ in means], [m for _, m in means], color=colour, label=label)


def _points(axis: Any, keys: dict[str, list[str]], runs: dict[str, Any]) -> None:
    """A line of dots per name, one for each seed."""
    for place, of_seeds in enumerate(keys.values()):
        losses = [runs[k]["test_loss"] for k in of_seeds if "test_loss" in runs.get(k, {})]
        axis.plot(losses, [place] * len(losses), "o", color=_COLOURS["A"], markersize=5, alpha=0.7)
    axis.set_yticks(range(len(keys)), list(keys))
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.grid(axis="x", alpha=0.3)


def _dress(axis: Any, title: str, label: str, legend: bool = True) -> None:
    axis.set_title(title, fontsize=8)
    axis.set_xlabel(label, fontsize=8)
    axis.tick_params(labelsize=7, which="both")
    axis.spines[["top", "right"]].set_visible(False)
    if legend:
        axis.legend(fontsize=6)
