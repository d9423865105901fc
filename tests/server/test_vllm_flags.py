"""Flags of vLLM that `loramux serve` takes, as a controller appends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from server.cli import app, serve
from server.config import Settings
from server.sources import SettingsError

from ..support.servers import make_settings

OWN = ["--base", "/mnt/models", "--http-port", "8000"]


def flags_of(monkeypatch: pytest.MonkeyPatch, args: list[str]) -> dict[str, Any]:
    """What `serve` makes of the arguments."""
    seen: list[dict[str, Any]] = []

    def load(flags: dict[str, Any], config: Any) -> Any:
        seen.append({name: value for name, value in flags.items() if value is not None})
        raise SettingsError(["seen"])

    monkeypatch.setattr(serve, "load", load)
    result = CliRunner().invoke(app, ["serve", *args])
    assert result.exit_code == 2, result.output
    assert len(seen) == 1, result.output
    return seen[0]


@pytest.mark.parametrize("quote", ["", "'"], ids=["by a shell", "as they are"])
def test_kserves_arguments_are_taken(monkeypatch: pytest.MonkeyPatch, quote: str) -> None:
    """pkg/controller/v1alpha2/llmisvc/workload_lora.go at aaac4e2: each adapter under two names, in
    quotes for a shell, before what the user's own spec has."""
    names = ("a", "publishers/ns/models/a", "b")
    modules = [f'{quote}{{"name":"{n}","path":"/mnt/lora/{n[-1]}"}}{quote}' for n in names]
    limits = ["--max-lora-rank=64", "--max-loras=2", "--max-cpu-loras=4"]
    appended = ["--enable-lora", *limits, "--lora-modules", *modules, "--max-running", "8"]
    named = ["--served-model-name", "base", "publishers/ns/models/base"]
    assert flags_of(monkeypatch, [*OWN, *named, *appended]) == {
        "served_model_names": ["base", "publishers/ns/models/base"],
        "base": "/mnt/models",
        "http_port": "8000",
        "max_adapters": "2",
        "max_running": "8",
        "adapters": {name: f"/mnt/lora/{name[-1]}" for name in names},
    }


def test_flags_without_effect_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serving(settings: Settings) -> int:
        return 0

    monkeypatch.setattr(serve, "load", lambda flags, config: make_settings(Path("x")))
    monkeypatch.setattr("server.logs.configure", lambda *_: None)
    monkeypatch.setattr("server.logs.adopt_libraries", lambda: None)
    monkeypatch.setattr("server.process.serve", serving)
    monkeypatch.setattr("server.lifecycle.ending.leave", lambda code: None)
    args = ["--enable-lora", "--max-lora-rank", "64", "--max-loras", "2", "--max-cpu-loras=4"]
    with capture_logs() as lines:
        result = CliRunner().invoke(app, ["serve", *OWN, *args])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in lines if line["event"] == "flags without effect here"]
    assert line["flags"] == ["--enable-lora", "--max-lora-rank", "--max-cpu-loras"]


@pytest.mark.parametrize(
    "modules",
    [
        ["--lora-modules", "a=/x", "b=/y"],
        ["--lora-modules=a=/x", "b=/y"],
        ["--lora-modules", "a=/x", "--lora-modules", '{"name": "b", "path": "/y"}'],
        ["--lora-modules", "a=/x", "--enable-lora", "--adapter", "b=/y"],
    ],
    ids=["old", "equals", "twice", "ours"],
)
def test_every_form_of_modules_is_taken(
    monkeypatch: pytest.MonkeyPatch, modules: list[str]
) -> None:
    found = flags_of(monkeypatch, [*modules, *OWN])
    assert found["adapters"] == {"a": "/x", "b": "/y"}
    assert found["base"] == "/mnt/models"


@pytest.mark.parametrize(
    "names",
    [
        ["--served-model-name", "a", "b"],
        ["--served-model-name=a", "b"],
        ["--served-model-name", "a", "--served-model-name", "b"],
    ],
    ids=["behind one another", "equals", "twice"],
)
def test_every_form_of_names_is_taken(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    assert flags_of(monkeypatch, [*names, *OWN])["served_model_names"] == ["a", "b"]


@pytest.mark.parametrize(
    "module",
    [
        "{",
        '{"name": "a"}',
        '{"name": "a", "path": 7}',
        '{"name": "a=b", "path": "/x"}',
        "a",
    ],
)
def test_what_is_no_module_is_refused(module: str) -> None:
    result = CliRunner().invoke(app, ["serve", *OWN, "--lora-modules", module])
    assert result.exit_code == 2
    assert "NAME=" in result.output


def test_keys_of_a_module_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    module = '{"name": "a", "path": "/x", "base_model_name": "b", "is_3d_lora_weight": false}'
    assert flags_of(monkeypatch, [*OWN, "--lora-modules", module])["adapters"] == {"a": "/x"}
    other = module.replace("base_model_name", "revision")
    result = CliRunner().invoke(app, ["serve", *OWN, "--lora-modules", other])
    assert result.exit_code == 2
    assert "unknown: revision" in result.output


@pytest.mark.parametrize("flag", ["--max-num-seqs", "--no-enable-lora", "--max-model-len=8"])
def test_other_flags_are_refused_by_name(flag: str) -> None:
    result = CliRunner().invoke(app, ["serve", *OWN, "--enable-lora", flag])
    assert result.exit_code == 2
    assert flag.partition("=")[0] in result.output
