"""allow_unknown_fields, wherever an adapter is loaded: each load says so, and no other load gets it."""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from pathlib import Path

import pytest
from grpc import StatusCode
from loramux.v1 import adapters_pb2 as pb
from pydantic import ValidationError
from typer.testing import CliRunner

from server.cli import app
from server.declared.directory import WatchedDirectory

from ..support.adapters import edit_config
from ..support.declared import put_adapter, until
from ..support.servers import make_settings, refused, running

NOTE = "unknown fields passed over (allow_unknown_fields): 'mathematics_of_tomorrow'"


@pytest.fixture
def odd(tiny_adapters: dict[str, Path], tmp_path: Path) -> Path:
    path = shutil.copytree(tiny_adapters["a1"], tmp_path / "adapters" / "odd")
    edit_config(path, mathematics_of_tomorrow=1)
    return path


async def test_calls_settings_and_the_watched_directory(
    tiny_base: Path, odd: Path, tmp_path: Path
) -> None:
    shutil.copytree(odd, tmp_path / "watched" / "seen")
    shutil.copytree(odd, tmp_path / "watched" / "unseen")
    settings = make_settings(
        tiny_base,
        {"set": odd},
        adapter_roots=[odd.parent],
        adapter_watch=tmp_path / "watched",
        allow_unknown_fields=["set", "seen"],
        reconcile_s=0.02,
    )
    async with running(settings) as served:
        load = pb.LoadAdapterRequest(path="odd", adapter_id="called")
        error = await refused(served.adapters.LoadAdapter(load), StatusCode.INVALID_ARGUMENT)
        assert "mathematics_of_tomorrow" in str(error.details())
        load.allow_unknown_fields = True
        assert NOTE in (await served.adapters.LoadAdapter(load)).notes
        states = {"seen": "ready", "unseen": "failed"}
        await asyncio.to_thread(until, lambda: served.declared_states() == states)
        for name in ("set", "seen", "called"):
            found = await served.adapters.GetAdapter(pb.GetAdapterRequest(adapter_id=name))
            assert NOTE in found.notes
        command = ["adapters", "load", "odd", "--name", "typed"]
        run = partial(CliRunner().invoke, app, env={"LORAMUX_TARGET": served.target})
        assert (await asyncio.to_thread(run, command)).exit_code == 1
        shown = await asyncio.to_thread(run, [*command, "--allow-unknown-fields"])
        assert f"note: {NOTE}" in shown.stdout


def test_inspect(odd: Path) -> None:
    command = ["adapters", "inspect", str(odd)]
    assert CliRunner().invoke(app, command).exit_code == 1
    assert NOTE in CliRunner().invoke(app, [*command, "--allow-unknown-fields"]).stdout


def test_names_in_the_watched_directory(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put_adapter(tmp_path / name)
    found = WatchedDirectory(tmp_path, 0, ["b"]).read().adapters
    assert [found[name].allow_unknown_fields for name in ("a", "b")] == [False, True]


def test_a_name_that_is_no_adapters(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="allow_unknown_fields: 'x' is none of adapters"):
        make_settings(tmp_path, {"y": tmp_path}, allow_unknown_fields=["y", "x"])
    make_settings(tmp_path, adapter_watch=tmp_path, allow_unknown_fields=["x"])
