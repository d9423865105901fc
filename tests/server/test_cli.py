"""The command line against a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from server.cli import app
from server.config import Settings

from ..support.servers import Harness, free_port


async def run(served: Harness, *args: str, code: int = 0, stdin: str | None = None) -> Result:
    env = {"LORAMUX_TARGET": served.target}
    result = await asyncio.to_thread(CliRunner().invoke, app, list(args), env=env, input=stdin)
    assert result.exit_code == code, result.output
    return result


def test_help_explains_every_setting() -> None:
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    names = {"adapters": "adapter", "adapter_roots": "adapter-root", "adapter_sources": "adapter-source"}
    for name in Settings.model_fields:
        assert f"--{names.get(name, name.replace('_', '-'))}" in result.output


async def test_generate_streams_text(served: Harness) -> None:
    expected = await served.generate(
        adapter_id="a1", messages=[{"role": "user", "content": "hi"}], max_new_tokens=12)
    result = await run(served, "generate", "hi", "-a", "a1", "--max-new-tokens", "12")
    assert result.stdout == expected.text + "\n"
    piped = await run(served, "generate", "-", "-a", "a1", "--max-new-tokens", "12", stdin="hi")
    assert piped.stdout == result.stdout


async def test_generate_json(served: Harness) -> None:
    result = await run(served, "generate", "hi", "--no-chat", "--json", "--max-new-tokens", "4", "--seed", "1",
                       "--temperature", "0.5", "--top-p", "0.9", "--top-k", "5", "--stop", "zz")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[-1]["finish_reason"].startswith("FINISH_REASON_")
    assert events[-1]["usage"]["prompt_tokens"] == 2


async def test_adapters(served: Harness) -> None:
    loaded = json.loads((await run(served, "adapters", "load", "a3", "--name", "mine", "--json")).stdout)
    assert loaded[0]["adapter_id"] == "mine"
    listed = json.loads((await run(served, "adapters", "list", "--json")).stdout)
    assert [a["adapter_id"] for a in listed] == [*(f"a{i}" for i in range(8)), "mine"]
    table = (await run(served, "adapters", "list")).stdout
    assert loaded[0]["version"][:12] in table
    await run(served, "adapters", "unload", "mine")
    assert "mine" not in (await run(served, "adapters", "list")).stdout


async def test_info(served: Harness) -> None:
    info = json.loads((await run(served, "info", "--json")).stdout)
    assert info["architecture"] == "LlamaForCausalLM"
    assert info["load"]["adapters"] == 8
    assert "LlamaForCausalLM" in (await run(served, "info")).stdout


async def test_errors_are_one_line_and_an_exit_code(served: Harness) -> None:
    result = await run(served, "generate", "hi", "-a", "nope", code=1)
    assert "NOT_FOUND: adapter 'nope' is not registered" in result.stderr
    result = await run(served, "generate", "hi", "--top-p", "7", code=1)
    assert "top_p: must be in (0, 1]" in result.stderr
    await run(served, "adapters", "load", "/nowhere", code=1)
    result = await run(served, "info", "--target", f"127.0.0.1:{free_port()}", code=1)
    assert "UNAVAILABLE" in result.stderr


def test_serve_refuses_bad_settings(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", "--base", str(tmp_path), "--port", "99999"])
    assert result.exit_code == 2
    assert "port" in result.stderr
    result = CliRunner().invoke(app, ["serve", "--base", str(tmp_path), "--adapter", "no-equals-sign"])
    assert result.exit_code == 2
    assert "NAME=DIRECTORY" in result.stderr
