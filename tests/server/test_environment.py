"""Settings in the environment: names, lists, what Kubernetes sets, and what errors say."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server import environment
from server.cli import app
from server.config import Settings
from server.load_settings import load
from server.sources import SettingsError, variable_of

ROOT = Path(__file__).parents[2]
LINKS = {
    "LORAMUX_SERVICE_HOST": "10.0.0.1",
    "LORAMUX_SERVICE_PORT": "50051",
    "LORAMUX_SERVICE_PORT_GRPC": "50051",
    "LORAMUX_PORT": "tcp://10.0.0.1:50051",
    "LORAMUX_PORT_50051_TCP": "tcp://10.0.0.1:50051",
    "LORAMUX_PORT_50051_TCP_PROTO": "tcp",
    "LORAMUX_PORT_50051_TCP_PORT": "50051",
    "LORAMUX_PORT_50051_TCP_ADDR": "10.0.0.1",
    # of Services called loramux-canary and loramux-metrics
    "LORAMUX_CANARY_SERVICE_HOST": "10.0.0.2",
    "LORAMUX_CANARY_SERVICE_PORT": "50051",
    "LORAMUX_CANARY_PORT": "tcp://[fd00::2]:50051",
    "LORAMUX_CANARY_PORT_50051_TCP": "tcp://[fd00::2]:50051",
    "LORAMUX_CANARY_PORT_50051_TCP_ADDR": "fd00::2",
    "LORAMUX_METRICS_PORT": "tcp://10.0.0.3:9464",
}


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("LORAMUX_MAX_RUNING", "; did you mean LORAMUX_MAX_RUNNING?"),
        ("LORAMUX_ADAPTER", "; did you mean LORAMUX_ADAPTERS?"),
        ("LORAMUX_TOKN", "; did you mean LORAMUX_TOKEN?"),
        ("LORAMUX_port", "; did you mean LORAMUX_PORT?"),
        ("loramux_port", "; did you mean LORAMUX_PORT?"),
        ("LORAMUX_SOMETHING_ELSE", ""),
    ],
)
def test_an_unknown_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.setenv(name, "a-secret")
    with pytest.raises(SettingsError) as caught:
        load({"base": "b"})
    assert caught.value.problems == (f"{name} is not a setting{says}",)


def test_variables_of_other_parts_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, dict.fromkeys(environment.OTHERS, "x"))
    assert load({"base": "b"}) == Settings.model_validate({"base": "b"})


def test_every_variable_in_the_code_is_known() -> None:
    """What some file reads must not be refused at the start."""
    named = set()
    for path in [*(ROOT / "lora_runtime").rglob("*.py"), *(ROOT / "server").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= set(re.findall(r"\ALORAMUX_[A-Z_]*[A-Z]\Z", node.value))
    assert (
        named - {f"LORAMUX_{name.upper()}" for name in Settings.model_fields} == environment.OTHERS
    )


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("adapter_roots", "/a, /b,", [Path("/a"), Path("/b")]),
        ("adapter_roots", '["/a,b"]', [Path("/a,b")]),
        ("adapter_roots", "/a", [Path("/a")]),
        ("adapter_sources", "hf://a,s3://b/c", ["hf://a", "s3://b/c"]),
        ("adapters", "pirate=/x,json=/y=z", {"pirate": "/x", "json": "/y=z"}),
        ("adapters", '{"pirate": "/x,y"}', {"pirate": "/x,y"}),
        ("prefix_caching", "off", False),
        ("kv_cache_bytes", "1024", 1024),
        ("state_file", "/s", Path("/s")),
    ],
)
def test_values(monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: Any) -> None:
    monkeypatch.setenv(variable_of(name), text)
    assert getattr(load({"base": "b"}), name) == expected


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "loramux.yaml"
    file.write_text("port: 7\nbase: b\n")
    set_all(
        monkeypatch, dict.fromkeys(("LORAMUX_PORT", "LORAMUX_ADAPTERS", "LORAMUX_NONSENSE"), "")
    )
    assert load({}, file).port == 7
    assert load({}, file).adapters == {}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("PORT", "x", r"LORAMUX_PORT: Input should be a valid integer.*, got 'x'"),
        ("LOG_LEVEL", "loud", r"LORAMUX_LOG_LEVEL: .*, got 'loud'"),
        ("ADAPTERS", "a=/x,b", r"LORAMUX_ADAPTERS: 'b' is not NAME=DIRECTORY"),
        ("ADAPTERS", "a=/x,a=/y", r"LORAMUX_ADAPTERS: 'a' is given twice"),
        ("ADAPTERS", '{"a": "/x", "a": "/y"}', r"LORAMUX_ADAPTERS: 'a' is given twice"),
        ("ADAPTERS", "{", r"LORAMUX_ADAPTERS: it is not JSON"),
        ("POLICIES", '{"a": {"weight": 1, "weight": 2}}', r"LORAMUX_POLICIES: 'weight' is given"),
        ("ADAPTER_ROOTS", "[1]", r"LORAMUX_ADAPTER_ROOTS: its items must be texts"),
        ("POLICIES", "x", r"LORAMUX_POLICIES: it is not JSON"),
        ("POLICIES", '{"a": {"weight": 0}}', r"LORAMUX_POLICIES: a\.weight: .*, got 0"),
        ("MAX_BATCH_TOKENS", "8", r"\(max_running is 64 by default, LORAMUX_MAX_BATCH_TOKENS is '8'"),
        ("TLS_CERT", "/x", r"together \(LORAMUX_TLS_CERT is '/x', tls_key is None by default\)"),
    ],
)  # fmt: skip
def test_errors_name_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, says: str
) -> None:
    monkeypatch.setenv(f"LORAMUX_{name}", text)
    with pytest.raises(SettingsError, match=says) as caught:
        load({"base": "b"})
    assert len(caught.value.problems) == 1


def test_a_services_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, LINKS)
    assert load({"base": "b"}) == Settings.model_validate({"base": "b"})
    assert environment.service_links(dict(LINKS) | {"LORAMUX_BASE": "b"}) == sorted(LINKS)


@pytest.mark.slow
def test_the_log_says_what_a_services_variables_are(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server", "serve", "--base", str(tmp_path / "no-base")]
    command += ["--port", "0", "--http-port", "0", "--metrics-port", "0"]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **LINKS}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 1
    lines = [json.loads(line) for line in ended.stderr.splitlines() if line[0] == "{"]
    said = [line for line in lines if "Kubernetes" in line["event"]]
    assert len(said) == 1
    assert "enableServiceLinks: false" in said[0]["event"]
    assert said[0]["variables"] == sorted(LINKS)


def test_a_port_of_the_pods_own_counts() -> None:
    own = {"LORAMUX_PORT": "7", "LORAMUX_METRICS_PORT": "0"}
    assert environment.service_links(own) == []
    assert environment.variables(own) == own


def test_the_command_has_a_line_per_problem() -> None:
    variables = {"LORAMUX_MAX_RUNING": "3", "LORAMUX_PORT": "x", "TERM": "dumb"}
    result = CliRunner().invoke(app, ["serve", "--log-level", "loud"], env=variables)
    assert result.exit_code == 2
    starts = ["LORAMUX_MAX_RUNING is", "base is needed", "LORAMUX_PORT: ", "--log-level: "]
    lines = result.output.splitlines()
    assert len(lines) == len(starts)
    for start in starts:
        assert any(line.startswith(f"settings: {start}") for line in lines), start


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--adapter", "x"], "settings: --adapter: 'x' is not NAME=DIRECTORY"),
        (["--adapter", "a=/x", "--adapter", "a=/y"], "settings: --adapter: 'a' is given twice"),
        (["--policies", "{"], "settings: --policies: it is not JSON"),
        (["--port", "x"], "settings: --port: Input should be a valid integer"),
        (["--max-runing", "3"], "--max-running"),
    ],
)
def test_errors_name_the_flag(flags: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--base", "b", *flags])
    assert result.exit_code == 2
    assert says in result.output


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "loramux.yaml"
    file.write_text("base: b\nport: x\n")
    result = CliRunner().invoke(app, ["serve"], env={"LORAMUX_CONFIG": str(file)})
    assert f"settings: {file}: port: " in result.output


def test_errors_do_not_show_what_urls_keep_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_ADAPTER_SOURCES", "s3://user:secret@bucket,nonsense")
    with pytest.raises(SettingsError) as caught:
        load({"base": "x"})
    assert "nonsense" in str(caught.value)
    assert "secret" not in str(caught.value)
