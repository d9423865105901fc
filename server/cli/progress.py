"""Progress of a training: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from lora_runtime.training import StepReport

_LINE_EVERY_S = 10.0


class Progress:
    """Progress on standard error. A context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = (
            Bar(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=console,
            )
            if console.is_terminal
            else None
        )
        self._console = console
        self._task: Any = None
        self._shown = 0.0

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, report: StepReport) -> None:
        numbers = f"loss {report.loss:.4f} · {report.tokens_per_s:.0f} tokens/s"
        if report.eval_loss is not None:
            self._console.print(
                f"step {report.step}/{report.total_steps}: {numbers} · held out {report.eval_loss:.4f}",
                highlight=False,
                soft_wrap=True,
            )
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task("", total=report.total_steps, numbers=numbers)
            self._bar.update(self._task, completed=report.step, numbers=numbers)
        elif report.eval_loss is None and time.monotonic() - self._shown > _LINE_EVERY_S:
            self._console.print(
                f"step {report.step}/{report.total_steps}: {numbers}",
                highlight=False,
                soft_wrap=True,
            )
            self._shown = time.monotonic()
