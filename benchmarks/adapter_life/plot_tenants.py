"""Draw a result of tenants: `python -m benchmarks.adapter_life.plot_tenants RESULT.json
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

_COLOURS = {"alone": "#6aa7d2", "fair": "#1b6ca8", "first come, first served": "#b0413e"}


def draw(report: dict[str, Any], target: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for mode, result in report["modes"].items():
        axis.plot(
            result["light"]["ttft_percentiles_ms"],
            range(1, 100),
            color=_COLOURS[mode],
            label=f"light, {mode}",
        )
        if mode == "fair":
            axis.plot(
                result["heavy"]["ttft_percentiles_ms"],
                range(1, 100),
                color=_COLOURS[mode],
                linestyle=":",
                label=f"heavy, {mode}",
            )
    axis.set_xscale("log")
    axis.set_xlabel("TTFT, ms", fontsize=8)
    axis.set_ylabel("percentile", fontsize=8)
    axis.tick_params(labelsize=7, which="both")
    axis.legend(fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    about = report["machine"]
    axis.set_title(
        f"{about['model']}, {about['cores']} cores of {about['cpu']}, {about['date']}", fontsize=8
    )
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
