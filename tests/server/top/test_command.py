"""`loramux top` against a real server, and what it draws again and again."""

from __future__ import annotations

import asyncio
import json
from io import StringIO

import pytest
from google.protobuf.json_format import ParseDict
from loramux.v1 import server_pb2 as pb
from rich.console import Console
from typer.testing import CliRunner, Result

from server.cli import app
from server.top.seen import Reader
from server.top.watch import watch

from ...support.servers import Harness, free_port

CLEARED, SHOWN_AGAIN = "\x1b[?1049h", "\x1b[?1049l"
"""A terminal's other screen, taken and given back."""


async def top(served: Harness, *args: str, code: int = 0) -> Result:
    env = {"LORAMUX_TARGET": served.target, "COLUMNS": "120"}
    result = await asyncio.to_thread(CliRunner().invoke, app, ["top", *args], env=env)
    assert result.exit_code == code, result.output
    return result


async def test_a_picture_and_the_status_as_json(served: Harness) -> None:
    lines = (await top(served)).stdout.splitlines()
    assert f"ready  {served.target}" in lines[0]
    assert {line.split()[0] for line in lines if line.startswith("a")} == {
        "adapter",
        *(f"a{i}" for i in range(8)),
    }
    told = ParseDict(json.loads((await top(served, "--json")).stdout), pb.ServerStatus())
    assert told.load.adapters == len(told.slots) == 8
    await top(served, "--interval-s", "0", code=2)
    nobody = await top(served, "--target", f"127.0.0.1:{free_port()}", code=1)
    assert "UNAVAILABLE" in nobody.stderr


def test_the_picture_is_drawn_anew_until_it_is_interrupted() -> None:
    steps = iter(range(10))
    waited: list[float] = []

    def status() -> pb.ServerStatus:
        return pb.ServerStatus(load=pb.Load(waiting=next(steps)))

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise KeyboardInterrupt

    out = StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24)
    with pytest.raises(KeyboardInterrupt):
        watch(Reader(status, lambda: []), "host:1", console, 0.5, wait)
    written = out.getvalue()
    assert waited == [0.5] * 3
    assert [f"run, {n} wait" in written for n in range(4)] == [True, True, True, False]
    assert written.index(CLEARED) < written.index("0 wait")
    assert SHOWN_AGAIN in written
