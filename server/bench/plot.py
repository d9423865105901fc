"""A load's figures as a picture. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .call import OK, Call
from .popularity import BASE
from .recorder import Recorder
from .summary import gaps, latencies, ttfts

_ADAPTERS = 6
_BINS, _POINTS = 80, 500
_MARKS = (0, 50, 90, 99, 99.9, 99.99)
_ALL, _FAILED = "#1f2933", "#c0392b"
_COLOURS = ("#1b6ca8", "#d9822b", "#2e8b57", "#8e5ea2", "#c0707a", "#4f9da6")


def draw(recorder: Recorder, title: str, open_loop: bool, target: Path) -> None:
    """Draw distributions by adapter, and the load over time, into a file of the kind of its name."""
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    (ttft, itl, latency), (tokens, running, adapters) = figure.subplots(2, 3)
    groups = _most_called(recorder.calls)
    good = _good(recorder.calls)
    for axis, name, times in (
        (ttft, "Time to first token", ttfts),
        (itl, "Time between tokens", gaps),
        (latency, "Whole call", latencies),
    ):
        axis.set_title(name, fontsize=10, loc="left")
        for (adapter, calls), colour in zip(groups.items(), _COLOURS, strict=False):
            _distribution(axis, times(calls), colour, adapter)
        _distribution(axis, times(good), _ALL, "all", linewidth=2)
    if open_loop:
        for axis, due in ((ttft, ttfts(good, True)), (latency, latencies(good, True))):
            _distribution(axis, due, _ALL, "all, from when due", linestyle=":")
    _tokens_over_time(tokens, recorder)
    _calls_over_time(running, recorder)
    _tokens_by_adapter(adapters, groups, recorder.wall_s)
    handles, labels = latency.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.savefig(target, dpi=120)


def _good(calls: Sequence[Call]) -> list[Call]:
    return [c for c in calls if c.status == OK]


def _most_called(calls: Sequence[Call]) -> dict[str, list[Call]]:
    """Answered calls of the adapters that were called most; none where there is but one."""
    groups: dict[str, list[Call]] = {}
    for call in _good(calls):
        groups.setdefault(call.adapter or BASE, []).append(call)
    most = sorted(groups, key=lambda name: -len(groups[name]))[:_ADAPTERS]
    return {name: groups[name] for name in most} if len(groups) > 1 else {}


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
    times = [np.asarray([c.first, *c.gaps]).cumsum() for c in recorder.calls if c.first is not None]
    axis.set_title("Tokens per second over the run", fontsize=10, loc="left")
    edges = _edges(recorder)
    counts, _ = np.histogram(np.concatenate(times) - recorder.started if times else [], bins=edges)
    axis.stairs(counts / np.diff(edges), edges, color=_COLOURS[0], fill=True, alpha=0.8)
    _tidy(axis, "s", "tokens/s")


def _calls_over_time(axis: Axes, recorder: Recorder) -> None:
    axis.set_title("Calls under way, and failed ones", fontsize=10, loc="left")
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
    _tidy(axis, "s", "calls")


def _tokens_by_adapter(axis: Axes, groups: dict[str, list[Call]], wall_s: float) -> None:
    axis.set_title("Tokens per second by adapter", fontsize=10, loc="left")
    names = list(groups)[::-1]
    rates = [sum(c.tokens for c in groups[name]) / wall_s for name in names]
    colours = list(_COLOURS[: len(names)])[::-1]
    bars = axis.barh(names, rates, color=colours)
    axis.bar_label(bars, fmt="%.1f", fontsize=8, padding=3)
    axis.margins(x=0.15)
    _tidy(axis, "tokens/s", "")
    if not names:
        axis.set_axis_off()


def _edges(recorder: Recorder) -> Any:
    return np.linspace(0, recorder.wall_s, _BINS + 1)


def _tidy(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
