"""What a picture of a load shows."""

from __future__ import annotations

from pathlib import Path

from server.bench.call import Call
from server.bench.plot import _figure, _panels, draw
from server.bench.recorder import Recorder


def recorder(*adapters: str, stream: bool = True, status: str = "OK") -> Recorder:
    made = Recorder()
    made.started, made.ended = 0.0, 2.0
    for number in range(20):
        call = Call(adapters[number % len(adapters)], 0.0, 0.1, ended=1.0, status=status)
        if stream:
            call.took(1, 0.2)
            call.took(1, 0.3)
        made.calls.append(call)
    return made


def test_there_is_a_panel_for_what_there_is() -> None:
    assert len(_panels(recorder("", "a"), True)) == 6
    assert [*_panels(recorder("", stream=False), False)] == [
        "Whole call",
        "Tokens per second over the run",
        "Calls under way, and failed ones",
    ]
    failed = _panels(recorder("", "a", stream=False, status="NOT_FOUND"), False)
    assert [*failed] == ["Calls under way, and failed ones"]


def test_no_empty_panel_is_drawn() -> None:
    panels = _panels(recorder("a"), True)
    drawn = [axis.axison for axis in _figure(panels, "a load").axes]
    assert (len(panels), drawn) == (5, [True] * 5 + [False])


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "load.svg"
    draw(recorder("$\\x$", "_hidden", "long" * 32), "a load", True, file)
    text = file.read_text()
    assert "<!-- $\\x$ -->" in text
    assert "<!--  _hidden -->" in text
    assert f"<!-- {'long' * 5}lon… -->" in text
