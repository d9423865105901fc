"""Draw a result of cold_loads: `python -m benchmarks.adapter_life.plot_cold_loads RESULT.json
PICTURE.png`.

Runs where matplotlib is installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_COLOURS = {"resident": "#6aa7d2", "cold": "#e08e0b"}
_LABELS = {"resident": "no loads", "cold": "every request to a cold adapter"}


def draw(report: dict[str, Any], target: Path) -> None:
    variants = report["variants"]
    figure, axes = plt.subplots(
        2, len(variants), figsize=(3.2 * len(variants), 5.4), squeeze=False, layout="constrained"
    )
    for column, (name, result) in enumerate(variants.items()):
        _draw_itl(axes[0, column], result)
        _draw_ttft(axes[1, column], result)
        axes[0, column].set_title(name, fontsize=8)
    axes[0, 0].legend(fontsize=7, loc="lower right")
    about = report["machine"]
    figure.suptitle(
        f"{about['model']}, {about['cores']} cores of {about['cpu']}, {about['date']}", fontsize=9
    )
    figure.savefig(target, dpi=110)


def _draw_itl(axis: Any, result: dict[str, Any]) -> None:
    for phase, colour in _COLOURS.items():
        axis.plot(
            result[phase]["itl_percentiles_ms"], range(1, 100), color=colour, label=_LABELS[phase]
        )
    axis.set_xscale("log")
    axis.set_xlabel("ITL of running streams, ms", fontsize=7)
    axis.set_ylabel("percentile", fontsize=7)
    axis.tick_params(labelsize=7, which="both")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_ttft(axis: Any, result: dict[str, Any]) -> None:
    """The cold request's time in parts, beside a resident one's."""
    cold = result["cold"]
    load = cold.get("load_p50_ms", 0.0)
    axis.barh(["resident"], [result["resident"]["ttft_p50_ms"]], color=_COLOURS["resident"])
    axis.barh(["cold"], [load], color="#b0413e", label="its load")
    axis.barh(
        ["cold"], [cold["excess_p50_ms"]], left=[load], color=_COLOURS["cold"], label="the rest"
    )
    axis.axvline(
        load + 2 * cold["prefill_step_p50_ms"], color="black", linestyle=":", label="load + 2 steps"
    )
    axis.set_xlabel("TTFT p50, ms", fontsize=7)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
