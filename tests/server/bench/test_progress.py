"""What a terminal shows of a load that runs."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from server.bench.load import Load
from server.bench.progress import LiveFigures
from server.bench.recorder import Recorder

from .test_plot import recorder


def test_rates_go_over_more_than_one_look() -> None:
    """Answers come at once, then none for a while: few callers do not look like a stall."""
    calls = Recorder()
    live = LiveFigures(Console(file=StringIO()), Load(40, None, 4), calls)
    calls.calls += recorder("a").calls
    assert live._figures().startswith("20/40 calls")
    assert " · 0.0/s" not in live._figures()


async def test_the_line_makes_room_for_the_report() -> None:
    file = StringIO()
    async with LiveFigures(Console(file=file, force_terminal=True), Load(4, None, 4), Recorder()):
        pass
    assert file.getvalue().endswith("\x1b[1A\x1b[2K")  # up, and the line is empty
