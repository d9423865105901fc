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


async def test_generate_streams_text(served: Harness) -> None:
    expected = await served.generate(
        adapter_id="a1", messages=[{"role": "user", "content": "hi"}], max_new_tokens=12
    )
    result = await run(served, "generate", "hi", "-a", "a1", "--max-new-tokens", "12")
    assert result.stdout == expected.text + "\n"
    piped = await run(served, "generate", "-", "-a", "a1", "--max-new-tokens", "12", stdin="hi")
    assert piped.stdout == result.stdout


async def test_generate_json(served: Harness) -> None:
    result = await run(
        served,
        "generate",
        "hi",
        "--no-chat",
        "--json",
        "--max-new-tokens",
        "4",
        "--seed",
        "1",
        "--temperature",
        "0.5",
        "--top-p",
        "0.9",
        "--top-k",
        "5",
        "--stop",
        "zz",
    )
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[-1]["finish_reason"].startswith("FINISH_REASON_")
    assert events[-1]["usage"]["prompt_tokens"] == 2


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


async def test_generate_goes_on_with_a_begun_answer(served: Harness) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "It is"}]
    expected = await served.generate(
        messages=turns,
        max_new_tokens=12,
        continue_final_message=True,
        skip_special_tokens=False,
        chat_template_kwargs={"enable_thinking": False},
    )
    args = ("generate", "hi", "--max-new-tokens", "12")
    result = await run(
        served,
        *args,
        *("--continue", "It is", "--no-skip-special-tokens"),
        *("--chat-template-kwargs", '{"enable_thinking": false}'),
    )
    assert result.stdout == expected.text + "\n"
    deep = '{"a":' * 3000 + "1" + "}" * 3000
    for wrong in ("[1]", "{", '{"a": "\\ud800"}', '{"a": 1%s}' % ("0" * 400), deep):
        result = await run(served, *args, "--chat-template-kwargs", wrong, code=2)
        assert "must be a JSON object" in result.stderr
    result = await run(served, *args, "--no-chat", "--chat-template-kwargs", '{"a": 1}', code=1)
    assert "chat_template_kwargs: needs messages" in result.stderr
    await run(served, *args, "--no-chat", "--continue", "It is", code=2)
    assert "no text in UTF-8" in (await run(served, "generate", "\udcff", code=2)).stderr


async def test_generate_with_tools(served: Harness, tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": parameters | {"additionalProperties": False}},
    }
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"on": True}}}],
        },
        {"role": "tool", "content": "5", "tool_call_id": "c"},
    ]
    tools, messages = tmp_path / "tools.json", tmp_path / "messages.json"
    tools.write_text(json.dumps([tool]))
    messages.write_text(json.dumps(turns))
    args = ("generate", "--messages", str(messages), "--tools", str(tools))
    result = await run(served, *args, "--tool-choice", "f")
    assert result.stdout in ('\nf {"on": true}\n', '\nf {"on": false}\n')
    parsed = await run(served, "generate", "hi", "--parse", "--max-new-tokens", "3", "--json")
    events = [json.loads(line) for line in parsed.stdout.splitlines()]
    assert "".join(e["content"] for e in events) == "".join(e["text"] for e in events)
    result = await run(served, *args, "--tool-choice", "g", code=1)
    assert "no tool is named 'g'" in result.stderr
    await run(served, "generate", "--messages", str(messages), "--no-chat", code=2)
    for wrong in ("{", "[1]", '[{"content": "no role"}]', '[{"role": "a", "content": 5}]'):
        messages.write_text(wrong)
        assert "--messages" in (await run(served, *args, code=2)).stderr


async def test_generate_with_biases(served: Harness) -> None:
    args = ("generate", "hi", "--max-new-tokens", "3")
    given = ("--logit-bias", "65=100", "--logit-bias", "66=-100", "--min-tokens", "3")
    expected = await served.generate(
        messages=[{"role": "user", "content": "hi"}],
        max_new_tokens=3,
        logit_bias={65: 100, 66: -100},
        min_tokens=3,
    )
    result = await run(served, *args, *given)
    assert result.stdout == expected.text + "\n"
    assert list(expected.choices[0].token_ids) == [65] * 3
    for wrong in ("65", "a=1", "65=x", "-1=1", "5000000000=1"):
        result = await run(served, *args, "--logit-bias", wrong, code=2)
        assert "must be ID=BIAS" in result.stderr
    result = await run(served, *args, "--logit-bias", "1=1", "--logit-bias", "1=2", code=2)
    assert "names a token twice" in result.stderr


async def test_generate_with_several_adapters(served: Harness) -> None:
    fields = {"messages": [{"role": "user", "content": "hi"}], "max_new_tokens": 12}
    for args, adapters in (
        (["-a", "a1=0.5"], [{"adapter_id": "a1", "weight": 0.5}]),
        (
            ["-a", "a0", "--adapter", "a1=-0.5", "--priority", "3"],
            [{"adapter_id": "a0"}, {"adapter_id": "a1", "weight": -0.5}],
        ),
    ):
        expected = await served.generate(adapters=adapters, **fields)
        result = await run(served, "generate", "hi", *args, "--max-new-tokens", "12")
        assert result.stdout == expected.text + "\n"
    result = await run(served, "generate", "hi", "-a", "no=such", code=1)
    assert "adapter 'no=such' is not registered" in result.stderr


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
