"""What docs/guide/bench.md says of the command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from server.cli import app

from ...support.http_front import HttpHarness
from .conftest import Bench, report_of

PAGE = (Path(__file__).parents[3] / "docs/guide/bench.md").read_text()
COMMAND = typer.main.get_command(app).commands["bench"]  # type: ignore[attr-defined]


def test_its_options_are_there() -> None:
    options = {name for parameter in COMMAND.params for name in parameter.opts}
    options |= {name for parameter in COMMAND.params for name in parameter.secondary_opts}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--help"} <= options


def test_its_commands_are_understood() -> None:
    block = PAGE.split("```sh\n")[1].split("```")[0]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    commands = [words for words in lines if words]
    assert len(commands) == 4
    for words in commands:
        assert words[:2] == ["loramux", "bench"]
        COMMAND.make_context("bench", words[2:])


@pytest.mark.asyncio(loop_scope="module")
async def test_its_keys_are_the_reports(served: HttpHarness, bench: Bench) -> None:
    where = ("--target", served.server.target)
    report = report_of(await bench(*where, "-n", "2", "--rate", "100", "--json"))
    table = PAGE.split("| key | what |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([a-z_0-9]+)`", table))
    assert named - {"adapters"} == {
        *report.keys() - {"adapters"},
        *report["total"],
        *report["total"]["latency_ms"],
        *report["client"],
    }
