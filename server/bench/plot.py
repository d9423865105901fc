"""A load's figures as a picture. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .call import OK, Call
from .draws.popularity import BASE
from .recorder import Recorder
from .summary import gaps, latencies, ttfts

_ADAPTERS, _COLUMNS = 6, 3
_BINS, _POINTS = 80, 500
_LONGEST = 24
"""Characters of an id."""
_MARKS = (0, 50, 90, 99, 99.9, 99.99)
_ALL, _FAILED = "#1f2933", "#c0392b"
_COLOURS = ("#1b6ca8", "#d9822b", "#2e8b57", "#8e5ea2", "#c0707a", "#4f9da6")


def draw(recorder: Recorder, title: str, open_loop: bool, target: Path) -> None:
    """Draw distributions by adapter, and the load over time, into a file of the kind of its name."""
    with rc_context({"text.parse_math": False}):  # an id may have dollars
        _figure(_panels(recorder, open_loop), title).savefig(target, dpi=120)


def _figure(panels: dict[str, Callable[[Axes], None]], title: str) -> Figure:
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3.1 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    labels: dict[str, Any] = {}
    for axis, (name, panel) in zip(axes, panels.items(), strict=False):
        axis.set_title(name, fontsize=10, loc="left")
        panel(axis)
        labels |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.legend(
        labels.values(), labels, loc="outside lower center", ncols=8, fontsize=8, frameon=False
    )
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def _panels(recorder: Recorder, open_loop: bool) -> dict[str, Callable[[Axes], None]]:
    """Give what there is to draw, by title: of unary calls no first token."""
    good, groups = _good(recorder.calls), _most_called(recorder.calls)
    panels: dict[str, Callable[[Axes], None]] = {
        name: partial(_distributions, good=good, groups=groups, times=times, open_loop=open_loop)
        for name, times in (
            ("Time to first token", ttfts),
            ("Time between tokens", gaps),
            ("Whole call", latencies),
        )
        if times(good)
    }
    if good:
        panels["Tokens per second over the run"] = partial(_tokens_over_time, recorder=recorder)
    panels["Calls under way, and failed ones"] = partial(_calls_over_time, recorder=recorder)
    if groups:
        wall_s = recorder.wall_s
        panels["Tokens per second by adapter"] = partial(
            _tokens_by_adapter, groups=groups, wall_s=wall_s
        )
    return panels


def _distributions(
    axis: Axes, good: list[Call], groups: dict[str, list[Call]], times: Any, open_loop: bool
) -> None:
    for (adapter, calls), colour in zip(groups.items(), _COLOURS, strict=False):
        _distribution(axis, times(calls), colour, adapter)
    _distribution(axis, times(good), _ALL, "all", linewidth=2)
    if open_loop and times is not gaps:
        _distribution(axis, times(good, True), _ALL, "all, from when due", linestyle=":")


def _good(calls: Sequence[Call]) -> list[Call]:
    return [c for c in calls if c.status == OK]


def _most_called(calls: Sequence[Call]) -> dict[str, list[Call]]:
    """Answered calls of the adapters that were called most; none where there is but one."""
    groups: dict[str, list[Call]] = {}
    for call in _good(calls):
        groups.setdefault(call.adapter or BASE, []).append(call)
    most = sorted(groups, key=lambda name: -len(groups[name]))[:_ADAPTERS]
    return {_label(name): groups[name] for name in most} if len(groups) > 1 else {}


def _label(name: str) -> str:
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return (
        f" {short}" if short.startswith("_") else short
    )  # matplotlib hides labels with _ in front


def _distribution(
    axis: Axes, seconds: Sequence[float], colour: str, label: str, **style: Any
) -> None:
    """Draw the values by percentile, each further nine as wide as the one before: tails show."""
    if not len(seconds):
        return
    nines = np.linspace(0, np.log10(len(seconds)), _POINTS)
    values = np.quantile(np.asarray(seconds) * 1e3, 1 - 10**-nines)
    axis.plot(nines, values, color=colour, label=label, **style)
    marks = [p for p in _MARKS if _nines(p) <= axis.dataLim.x1 or p <= 90]
    axis.set_xticks([_nines(p) for p in marks], [f"{p:g}" for p in marks])
    axis.set_ylim(0, axis.dataLim.y1 * 1.05)
    axis.grid(alpha=0.25)
    _tidy(axis, "percentile", "ms")


def _nines(percentile: float) -> float:
    return float(-np.log10(1 - percentile / 100))


def _tokens_over_time(axis: Axes, recorder: Recorder) -> None:
    times = np.concatenate([_token_times(call) for call in recorder.calls] or [np.empty(0)])
    edges = _edges(recorder)
    counts, _ = np.histogram(times - recorder.started, bins=edges)
    axis.stairs(counts / np.diff(edges), edges, color=_COLOURS[0], fill=True, alpha=0.8)
    _tidy(axis, "s", "tokens/s")


def _token_times(call: Call) -> Any:
    """When the tokens of a call came: of a unary one, all at its end."""
    if call.first is None:
        return np.full(call.tokens, call.ended)
    return np.asarray([call.first, *call.gaps]).cumsum()


def _calls_over_time(axis: Axes, recorder: Recorder) -> None:
    edges = _edges(recorder)
    sent = np.sort([c.sent - recorder.started for c in recorder.calls])
    ended = np.sort([c.ended - recorder.started for c in recorder.calls])
    under_way = np.searchsorted(sent, edges) - np.searchsorted(ended, edges)
    axis.plot(edges, under_way, color=_ALL)
    failed = [c.ended - recorder.started for c in recorder.calls if c.status != OK]
    if failed:
        counts, _ = np.histogram(failed, bins=edges)
        axis.stairs(counts, edges, color=_FAILED, fill=True, alpha=0.7)
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    _tidy(axis, "s", "calls")


def _tokens_by_adapter(axis: Axes, groups: dict[str, list[Call]], wall_s: float) -> None:
    names = list(groups)[::-1]
    rates = [sum(c.tokens for c in groups[name]) / wall_s for name in names]
    colours = list(_COLOURS[: len(names)])[::-1]
    bars = axis.barh(names, rates, color=colours)
    axis.bar_label(bars, fmt="%.1f", fontsize=8, padding=3)
    axis.margins(x=0.15)
    _tidy(axis, "tokens/s", "")


def _edges(recorder: Recorder) -> Any:
    return np.linspace(0, recorder.wall_s, _BINS + 1)


def _tidy(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
