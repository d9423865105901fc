"""Live figures of a load while it runs: a line on a terminal, nothing elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from .load import Load
from .recorder import Recorder

_EVERY_S = 0.5
_RATES_S = 5.0


class LiveFigures:
    """Line of figures. An async context manager: it is drawn in the load's loop, where what comes
    meanwhile waits a millisecond, and therefore seldom."""

    def __init__(self, console: Console, load: Load, recorder: Recorder) -> None:
        self._load, self._recorder = load, recorder
        self._bar = Progress(
            TimeElapsedColumn(table_column=Column(min_width=7)),
            BarColumn(bar_width=6),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            auto_refresh=False,
            transient=True,  # the report says it all
            disable=not console.is_terminal,
        )
        self._bar_task = self._bar.add_task("", total=1.0, figures="")
        self._before = deque([(time.perf_counter(), 0, 0)], maxlen=round(_RATES_S / _EVERY_S))

    async def __aenter__(self) -> Self:
        self._bar.start()
        self._task = asyncio.create_task(self._draw()) if not self._bar.disable else None
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._bar.stop()

    async def _draw(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            self._bar.update(self._bar_task, completed=self._part(), figures=self._figures())
            self._bar.refresh()

    def _part(self) -> float:
        """Give the part that is done, by calls or by time, whichever is nearer to its end."""
        done = [0.0]
        if self._load.calls:
            done.append(len(self._recorder.calls) / self._load.calls)
        if self._load.duration_s:
            seconds = time.perf_counter() - self._recorder.started
            done.append(seconds / self._load.duration_s)
        return min(1.0, max(done))

    def _figures(self) -> str:
        recorder = self._recorder
        now = (time.perf_counter(), len(recorder.calls), recorder.tokens)
        seconds, calls, tokens = (new - old for new, old in zip(now, self._before[0], strict=True))
        self._before.append(now)
        done = f"{now[1]}/{self._load.calls}" if self._load.calls else str(now[1])
        texts = [
            f"{done} calls",
            f"{len(recorder.running)} run",
            f"{recorder.failed} failed",
            f"{calls / seconds:.1f}/s",
            f"{tokens / seconds:.0f} tokens/s",
        ]
        first = [c.first - c.sent for c in recorder.recent if c.first is not None]
        if first:
            p50, p99 = np.percentile(first, (50, 99)) * 1e3
            texts.append(f"TTFT {p50:.0f}/{p99:.0f} ms")
        return " · ".join(texts)
