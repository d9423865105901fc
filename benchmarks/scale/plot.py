"""Pictures of the studies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

_COLOURS = ("#8c8c8c", "#c2a35a", "#b0413e", "#9cc7e4", "#1b6ca8", "#5a9e4b", "#7b4fa3")


def draw_capacity(report: Mapping[str, Any], target: Path) -> None:
    """Draw the replicas that each policy needs, seed by seed."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    names = list(report["capacity"])
    for i, name in enumerate(names):
        needed = [one["replicas_per_million_a_day"] for one in report["capacity"][name]]
        values = [value for value in needed if math.isfinite(value)]
        if not values:
            axis.text(0, i, "  never", va="center", fontsize=8)
            continue
        mean = sum(values) / len(values)
        axis.barh(i, mean, color=_COLOURS[i % len(_COLOURS)])
        axis.plot(values, [i] * len(values), "|", color="black", markersize=9)
        axis.text(max(values), i, f"  {mean:.2f}", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    setup = report["setup"]
    axis.set_title(
        f"replicas for a million requests a day, TTFT p99 at most {1e3 * setup['objective_s']:.0f} ms"
        f" ({setup['replicas']} replicas, {setup['adapters']:,} adapters; simulated)",
        fontsize=9,
        loc="left",
    )
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=110)
    plt.close(figure)


def draw_changes(study: Mapping[str, Any], title: str, target: Path) -> None:
    """Draw loads and TTFT by second, around the change."""
    plt = _pyplot()
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    for i, (name, found) in enumerate(study.items()):
        if not found["keeps_up"]:
            continue
        colour = _COLOURS[i % len(_COLOURS)]
        whole = slice(sum(value > 0 for value in found["ttft_p99_ms"]) - 1)  # not the last, in part
        seconds = found["second"][whole]
        above.plot(seconds, found["loads"][whole], label=name, color=colour, linewidth=1.2)
        below.plot(seconds, found["ttft_p99_ms"][whole], color=colour, linewidth=1.2)
    above.set_title(
        f"{title} at second 0 (simulated): adapter loads a second", fontsize=9, loc="left"
    )
    below.set_title("TTFT p99 of the requests that came in that second, ms", fontsize=9, loc="left")
    below.set_yscale("log")
    figure.legend(loc="outside lower center", fontsize=8, ncols=7, frameon=False)
    above.set_ylim(bottom=0)
    for axis in (above, below):
        axis.axvline(0, color="black", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.savefig(target, dpi=110)
    plt.close(figure)


def _pyplot() -> Any:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # behind the choice of what draws

    return plt
