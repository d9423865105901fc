"""The command line against a real server."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from loramux.v1 import adapters_pb2
from typer.testing import CliRunner, Result

from lora_runtime import __version__
from server.cli import app
from server.config import Settings
from server.sources import flag_of

from ..support.servers import Harness, free_port, make_settings, running

ANY_DECLARED = adapters_pb2.ListDeclaredAdaptersRequest()


async def run(served: Harness, *args: str, code: int = 0, stdin: str | None = None) -> Result:
    env = {"LORAMUX_TARGET": served.target}
    result = await asyncio.to_thread(CliRunner().invoke, app, list(args), env=env, input=stdin)
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("columns", ["80", "140"])
def test_help_explains_every_setting(columns: str) -> None:
    """Whole flags, descriptions, choices and defaults, however wide the terminal is."""
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": columns})
    text = "".join(result.output.split())  # lines end within words that have hyphens
    for name, field in Settings.model_fields.items():
        flag = flag_of(name)
        assert re.search(rf"^  {flag} ", result.output, re.MULTILINE), flag
        assert "".join(str(field.description).split()) in text, name
        if get_origin(field.annotation) is Literal:
            assert f"{flag}{'|'.join(get_args(field.annotation))}" in text, name


@pytest.mark.parametrize(
    ("flag", "metavar", "default"),
    [
        ("config", "FILE", "(default: none)"),
        ("base", "TEXT", "(required)"),
        ("port", "INT", "(default: 50051)"),
        ("drain-s", "FLOAT", "(default: 30)"),
        ("log-level", "debug|info|warning|error", "(default: info)"),
        ("adapter", "NAME=DIRECTORY", "(LORAMUX_ADAPTERS, with commas; default: none)"),
        ("adapter-root", "DIRECTORY", "(LORAMUX_ADAPTER_ROOTS, with commas; default: none)"),
        ("served-model-name", "NAME", "(LORAMUX_SERVED_MODEL_NAMES, with commas; default: none)"),
        ("http-cors-origin", "ORIGIN", "(LORAMUX_HTTP_CORS_ORIGINS, with commas; default: none)"),
        ("metrics-names", "loramux,vllm", "(default: loramux,vllm)"),
        ("policies", "JSON", "(default: none)"),
        ("tls-cert", "PATH", "(default: none)"),
        ("max-running", "INT", "(default: 64)"),
        ("max-adapter-bytes", "INT", "(default: 2147483648)"),
        ("priority-aging-s", "FLOAT", "(default: 10)"),
        ("adapter-cache-dir", "TEXT", "(default: empty)"),
        ("cuda-graphs", "/ --no-cuda-graphs", "(default: on)"),
        ("trust-hub", "/ --no-trust-hub", "(default: off)"),
        ("kernels", "auto|torch|triton", "(default: auto)"),
    ],
)
def test_help_has_defaults_and_kinds(flag: str, metavar: str, default: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "80"})
    _, found, after = result.output.partition(f"  --{flag} {metavar}")
    assert found
    assert after[0].isspace()
    own = re.split(r"\n  --|\n\n", after)[0]
    assert " ".join(own.split()).endswith(default)


def test_help_has_the_engines_settings_apart() -> None:
    result = CliRunner().invoke(app, ["serve", "--help"])
    own, _, engine = result.output.partition("\nEngine:\n")
    assert "  --port " in own
    assert "  --max-running " in engine
    assert "  --help " in own


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"loramux {__version__}\n")


async def test_adapters(served: Harness) -> None:
    loaded = json.loads(
        (await run(served, "adapters", "load", "a3", "--name", "mine", "--json")).stdout
    )
    assert loaded[0]["adapter_id"] == "mine"
    listed = json.loads((await run(served, "adapters", "list", "--json")).stdout)
    assert [a["adapter_id"] for a in listed] == [*(f"a{i}" for i in range(8)), "mine"]
    table = (await run(served, "adapters", "list")).stdout
    assert loaded[0]["version"][:12] in table
    await run(served, "adapters", "unload", "mine")
    assert "mine" not in (await run(served, "adapters", "list")).stdout


async def test_changes_of_an_adapter(served: Harness) -> None:
    async def one(*args: str) -> dict:
        return json.loads((await run(served, "adapters", *args, "--json")).stdout)[0]

    first = await one(
        "load", "a3", "--name", "mine", "--weight", "2", "--max-running", "3", "--pinned"
    )
    assert first["policy"] == {
        "weight": 2,
        "max_running": 3,
        "max_waiting": 0,
        "tokens_per_minute": 0,
        "pinned": True,
    }
    canary = await one("load", "a4", "--name", "mine", "--canary", "0.25")
    assert (canary["version"], canary["canary"]["weight"]) == (first["version"], 0.25)
    table = (await run(served, "adapters", "list")).stdout
    assert f"{canary['canary']['version'][:12]} 25%" in table
    promoted = await one("canary", "mine", "1")
    assert promoted["version"] == canary["canary"]["version"]
    assert (await one("rollback", "mine"))["version"] == first["version"]
    changed = await one("policy", "mine", "--max-waiting", "4", "--tokens-per-minute", "600")
    assert (changed["policy"]["max_waiting"], changed["policy"]["weight"]) == (4, 1)
    assert (
        await run(served, "adapters", "policy", "*", "--weight", "3", "--json")
    ).stdout == "[]\n"
    nothing = await run(served, "adapters", "policy", "mine", code=2)
    assert "name what to set" in nothing.stderr
    await run(served, "adapters", "canary", "mine", "2", code=2)
    result = await run(served, "adapters", "load", "hf://org/name", code=1)
    assert "PERMISSION_DENIED" in result.stderr


async def test_status_of_declared_adapters(
    tiny_base: Path, adapter_root: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "adapters.yaml"
    entries = [
        {"name": "one", "source": str(adapter_root / "a1")},
        {"name": "two", "source": str(tmp_path / "gone")},
    ]
    manifest.write_text(json.dumps({"adapters": entries}))  # JSON is YAML
    async with running(
        make_settings(tiny_base, adapter_manifest=manifest, reconcile_s=0.05)
    ) as served:
        while [
            a.state for a in (await served.adapters.ListDeclaredAdapters(ANY_DECLARED)).adapters
        ][:1] != ["ready"]:
            await asyncio.sleep(0.02)
        one, two = json.loads((await run(served, "adapters", "status", "--json")).stdout)
        assert (one["name"], one["source"], one["error"]) == ("one", str(adapter_root / "a1"), "")
        assert (two["name"], two["version"]) == ("two", "")
        table = (await run(served, "adapters", "status")).stdout
        assert one["version"][:12] in table
        assert two["error"] in table
        info = (await run(served, "info")).stdout
        assert "state            not_ready\n" in info
        assert f"waiting for      two (pending: {two['error']})\n" in info


def test_inspect(tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path) -> None:
    def inspect(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["adapters", "inspect", *args])
        assert result.exit_code == code, result.output
        return result

    path = str(tiny_adapters["a2"])
    report = json.loads(inspect(path, "--base", str(tiny_base), "--json").stdout)
    assert (len(report["modules"]), report["ranks"], report["checked_against"]) == (
        9,
        [3],
        tiny_base.name,
    )
    assert report["version"] in inspect(path, "--base", str(tiny_base)).stdout
    assert "not checked against a base" in inspect(path).stdout
    assert "adapter_config.json" in inspect(str(tmp_path), code=1).stderr
    assert "cannot be described" in inspect(path, "--base", str(tmp_path), code=1).stderr


async def test_info(served: Harness) -> None:
    info = json.loads((await run(served, "info", "--json")).stdout)
    assert info["architecture"] == "LlamaForCausalLM"
    assert (info["load"]["adapters"], info["load"]["registered_adapters"]) == (8, 8)
    shown = (await run(served, "info")).stdout
    assert "LlamaForCausalLM" in shown
    assert "state            ready\n" in shown


async def test_errors_are_one_line_and_an_exit_code(served: Harness) -> None:
    result = await run(served, "generate", "hi", "-a", "nope", code=1)
    assert "NOT_FOUND: adapter 'nope' is not registered" in result.stderr
    result = await run(served, "generate", "hi", "--top-p", "7", code=1)
    assert "top_p: must be in (0, 1]" in result.stderr
    await run(served, "adapters", "load", "/nowhere", code=1)
    result = await run(served, "info", "--target", f"127.0.0.1:{free_port()}", code=1)
    assert "UNAVAILABLE" in result.stderr


async def test_a_limit_says_when_to_try_again(
    tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    settings = make_settings(tiny_base, tiny_adapters, policies={"a0": {"tokens_per_minute": 1}})
    async with running(settings) as served:
        await run(served, "generate", "hi", "-a", "a0", "--max-new-tokens", "4")
        result = await run(served, "generate", "hi", "-a", "a0", code=1)
    assert "RESOURCE_EXHAUSTED" in result.stderr
    assert re.search(r"\n  retry after [\d.]+ s\n", result.stderr)
    assert "\n  loramux.v1.Adapter:a0: " in result.stderr


def test_serve_refuses_bad_settings(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", "--base", str(tmp_path), "--port", "99999"])
    assert result.exit_code == 2
    assert "port" in result.stderr
    result = CliRunner().invoke(
        app, ["serve", "--base", str(tmp_path), "--adapter", "no-equals-sign"]
    )
    assert result.exit_code == 2
    assert "NAME=DIRECTORY" in result.stderr
    result = CliRunner().invoke(app, ["serve", "--base", str(tmp_path), "--policies", "{"])
    assert (result.exit_code, "--policies: it is not JSON" in result.stderr) == (2, True)
    for names, problem in ((",", "there is nothing in it"), ("vllm,mine", "got 'mine'")):
        flags = ["--base", str(tmp_path), "--metrics-names", names]
        result = CliRunner().invoke(app, ["serve", *flags])
        assert result.exit_code == 2
        assert result.stderr.startswith("settings: --metrics-names: ")
        assert problem in result.stderr
