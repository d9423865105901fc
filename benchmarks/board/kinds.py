"""Kinds of panels, drawn with what Prometheus has answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .prometheus import Line, Window

Panel = dict[str, Any]
_COLOURS = {
    "green": "#73bf69",
    "light-green": "#c8f2c2",
    "yellow": "#f2cc0c",
    "light-yellow": "#fff899",
    "orange": "#ff9830",
    "red": "#f2495c",
    "light-red": "#ffa6b0",
    "dark-red": "#c4162a",
    "blue": "#5794f2",
    "purple": "#b877d9",
    "text": "#d0d3d6",
}
Answers = list[tuple[str, Line]]
"""Names of the legend with their series."""


def _timeseries(axes: Axes, panel: Panel, answers: Answers, window: Window) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    if stacked and answers:
        _stack(axes, answers, _colours(panel))
    else:
        for name, line in answers:
            axes.plot(*_with_gaps(line, window.step), label=name, linewidth=1, marker=".", ms=0.8)
    _axis(axes, defaults, window)
    if answers:
        columns = 3 if max(len(name) for name, _ in answers) < 16 else 2
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.08, -0.13),
            ncols=columns if len(answers) < 7 else 5,
            fontsize=6.5,
            frameon=False,
            handlelength=1,
            columnspacing=1,
            labelspacing=0.2,
        )
    else:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color="gray")


def _stack(axes: Axes, answers: Answers, colours: dict[str, str]) -> None:
    times = sorted({t for _, line in answers for t in line.times})
    layers = []
    for _, line in answers:
        known = dict(zip(line.times, line.values, strict=True))
        layers.append([0 if math.isnan(v := known.get(t, 0)) else v for t in times])
    names = [name for name, _ in answers]
    others = map(_COLOURS.__getitem__, ("purple", "blue", "orange", "yellow", "light-red"))
    drawn = [colours.get(name) or next(others, "gray") for name in names]
    axes.stackplot(_clock(times), layers, labels=names, colors=drawn, alpha=0.75)


def _colours(panel: Panel) -> dict[str, str]:
    return {
        one["matcher"]["options"]: _COLOURS[one["properties"][0]["value"]["fixedColor"]]
        for one in panel["fieldConfig"]["overrides"]
    }


def _with_gaps(line: Line, step: float) -> tuple[list[float], list[float]]:
    """Times and values, without a line over moments of which nothing is known."""
    times, values = [line.times[0]], [line.values[0]]
    for at, value in zip(line.times[1:], line.values[1:], strict=True):
        if at - times[-1] > 1.5 * step:
            times.append(at - step)
            values.append(math.nan)
        times.append(at)
        values.append(value)
    return _clock(times), values


def _axis(axes: Axes, defaults: dict[str, Any], window: Window) -> None:
    axes.set_xlim(*_clock((window.start, window.end)))
    _, high = axes.get_ylim()
    axes.set_ylim(
        0, defaults.get("max", high if high > 0 else 1) * (1.03 if "max" in defaults else 1)
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, defaults["unit"])))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
    axes.tick_params(labelsize=7, length=2, colors="#555555")
    axes.grid(color="#eeeeee", linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _stat(axes: Axes, panel: Panel, answers: Answers, window: Window) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axes.axis("off")
    if not answers:
        return
    (_, line), *_ = answers
    axes.plot(_clock(line.times), line.values, color="#73bf69", linewidth=0.8)
    axes.fill_between(_clock(line.times), line.values, color="#73bf69", alpha=0.15)
    axes.set_ylim(bottom=0)
    last = next((v for v in reversed(line.values) if not math.isnan(v)), math.nan)
    colour = "#37872d"
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or last >= step["value"]:
            colour = {"green": "#37872d", "orange": "#fa6400", "red": "#c4162a"}[step["color"]]
    axes.text(
        0.5,
        0.5,
        shown(last, defaults["unit"]),
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=20,
        color=colour,
    )


def _bars(axes: Axes, panel: Panel, answers: Answers, window: Window) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    names = [name for name, _ in answers]
    values = [line.values[-1] for _, line in answers]
    bars = axes.barh(names, values, color="#5794f2", height=0.5)
    axes.bar_label(bars, [shown(value, unit) for value in values], fontsize=7, padding=2)
    axes.margins(x=0.2, y=0.6)
    axes.tick_params(labelsize=7, length=0)
    axes.set_xticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _table(axes: Axes, panel: Panel, answers: Answers, window: Window) -> None:
    axes.axis("off")
    lines = sorted((line for _, line in answers), key=lambda line: line.labels["adapter"])
    cells = [
        [line.labels["adapter"], line.labels["version"][:40] + "…", f"{line.values[-1]:.0f}"]
        for line in lines[:8]
    ]
    table = axes.table(
        cells or [["", "", ""]],
        colLabels=["adapter", "version", "Value"],
        bbox=(0, 0, 1, 1),
        colWidths=[0.3, 0.55, 0.15],
        cellLoc="left",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    for cell in table.get_celld().values():
        cell.set_linewidth(0.3)


def _states(axes: Axes, panel: Panel, answers: Answers, window: Window) -> None:
    window_begin, _ = _clock((window.start, window.end))
    colours = {"0": "#f2495c", "1": "#73bf69"}
    for row, (_, line) in enumerate(answers):
        for at, value in zip(line.times, line.values, strict=True):
            begin, end = _clock((at, at + window.step))
            axes.barh(row, end - begin, left=begin, color=colours[f"{value:.0f}"], height=0.7)
    for row, (name, _) in enumerate(answers):
        axes.text(window_begin, row, f" {name}", va="center", fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(*_clock((window.start, window.end)))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
    axes.tick_params(labelsize=7, length=2)


KINDS: dict[str, Callable[[Axes, Panel, Answers, Window], None]] = {
    "timeseries": _timeseries,
    "stat": _stat,
    "bargauge": _bars,
    "table": _table,
    "state-timeline": _states,
}


def shown(value: float, unit: str) -> str:
    """A value as the board's unit has it."""
    if math.isnan(value):
        return "-"
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    if unit == "bytes":
        size = min(int(math.log(value, 1024)), 3) if value >= 1 else 0
        return f"{value / 1024**size:.3g} {('B', 'KiB', 'MiB', 'GiB')[size]}"
    ends = {"reqps": " req/s", "ops": " ops/s"}.get(unit, "")
    return (f"{value / 1000:.3g} K" if value >= 10000 else f"{value:.4g}") + ends


def _clock(times: Iterable[float]) -> list[float]:
    return [float(dates.date2num(datetime.fromtimestamp(t))) for t in times]
