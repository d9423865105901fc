"""Settings: where a value comes from, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import AdapterPolicy, EngineConfig
from lora_runtime.settings import Setting
from server.config import Settings
from server.load_settings import load
from server.sources import SettingsError, flag_of

SECONDS = [
    name
    for name, field in Settings.model_fields.items()
    if name.endswith("_s") and field.annotation is float and name not in EngineConfig.__dict__
]


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "loramux.yaml"
    path.write_text(
        "base: from-file\nport: 1\nmax_running: 1\nmax_adapters: 1\nadapters: {x: dir/x}\n"
    )
    return path


def test_precedence(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_PORT", "2")
    monkeypatch.setenv("LORAMUX_MAX_RUNNING", "2")
    settings: Any = load({"port": 3, "host": None, "adapters": {}}, yaml)
    # Flag, then environment, then file, then default.
    assert (settings.port, settings.max_running, settings.max_adapters, settings.kv_block_size) == (
        3,
        2,
        1,
        16,
    )
    assert (settings.base, settings.adapters, settings.host) == (
        "from-file",
        {"x": "dir/x"},
        "127.0.0.1",
    )


def test_policies(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml.write_text(
        yaml.read_text() + "policies: {'*': {max_running: 2}, a: {weight: 3, pinned: true}}\n"
    )
    engine_policies = {name: p.to_engine() for name, p in load({}, yaml).policies.items()}
    assert engine_policies == {
        "*": AdapterPolicy(max_running=2),
        "a": AdapterPolicy(weight=3, pinned=True),
    }
    monkeypatch.setenv("LORAMUX_POLICIES", '{"b": {"tokens_per_minute": 9}}')
    assert load({}, yaml).policies["b"].to_engine() == AdapterPolicy(tokens_per_minute=9)


def test_every_engine_setting_arrives(yaml: Path) -> None:
    config = load(
        {"max_context": 77, "dtype": "float16", "prefix_caching": False}, yaml
    ).engine_config()
    assert (config.max_context, config.dtype, config.prefix_caching, config.max_running) == (
        77,
        "float16",
        False,
        1,
    )


def test_defaults_are_the_engines() -> None:
    """Flags, variables and files that say nothing leave them as they are."""
    assert load({"base": "b"}).engine_config() == EngineConfig()


@pytest.mark.parametrize(
    "setting", [s for s in EngineConfig.settings() if s.limit.demand], ids=lambda s: s.name
)
def test_limits_are_the_engines(setting: Setting) -> None:
    bad: dict[str, Any] = {setting.name: "nonsense" if setting.limit.choices else -1}
    with pytest.raises(SettingsError, match=rf"--{setting.name.replace('_', '-')}: .*, got "):
        load({"base": "b", **bad})
    if setting.limit.checked:
        with pytest.raises(
            ValueError, match=re.escape(f"{setting.name} must {setting.limit.demand}, got")
        ):
            EngineConfig(**bad)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({}, "base is needed: --base, LORAMUX_BASE or base in --config"),
        ({"base": "b", "port": 70000}, "--port: .*, got 70000"),
        ({"base": "b", "dtype": "int3"}, "--dtype: .*, got 'int3'"),
        ({"base": "b", "nonsense": 1}, "--nonsense is not a setting"),
        (
            {"base": "b", "max_batch_tokens": 8},
            r"\(max_running is 64 by default, --max-batch-tokens is 8\)",
        ),
        ({"base": "b", "tls_key": "k"}, r"\(tls_cert is None by default, --tls-key is 'k'\)"),
        ({"base": "b", "keepalive_s": 0}, "--keepalive-s: "),
        *(({"base": "b", name: "inf"}, f"{flag_of(name)}: ") for name in SECONDS),
        *(({"base": "b", name: 1e7}, f"{flag_of(name)}: ") for name in SECONDS),
        ({"base": "b", "max_message_bytes": 1 << 31}, "--max-message-bytes: "),
        (
            {"base": "b", "metrics_port": 50051},
            r"port and metrics_port must not be the same \(port is 50051 by default, "
            r"--metrics-port is 50051\)",
        ),
        ({"base": "b", "metrics_port": 1, "health_port": 1}, "metrics_port and health_port must"),
        ({"base": "b", "policies": {"a": {"weight": 0}}}, r"--policies: a\.weight: .*, got 0"),
        (
            {"base": "b", "policies": {"a": {"max_runing": 1}}},
            r"--policies: a\.max_runing is not a setting of a policy; did you mean max_running\?",
        ),
    ],
    ids=str,
)
def test_refusals_name_the_field(flags: dict, names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        load(flags)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base: b\nunknown_key: 1", "bad.yaml: 'unknown_key' is not a setting"),
        (
            "base: b\nmax-runing: 1",
            r"bad.yaml: 'max-runing' is not a setting; did you mean max_running\?",
        ),
        ("base: b\nport: x", "bad.yaml: port: .*, got 'x'"),
        ("base: b\npolicies: {a: {weight: 0}}", r"bad.yaml: policies: a\.weight: .*, got 0"),
        ("base: b\nbase: c", "bad.yaml is not YAML: .*a key is given twice"),
        ("base: [", "bad.yaml is not YAML"),
        ("- base", "bad.yaml is not a YAML mapping"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, says: str) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(text)
    with pytest.raises(SettingsError, match=says) as caught:
        load({}, bad)
    assert len(caught.value.problems) == 1
    assert "\n" not in caught.value.problems[0]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"config file .*none\.yaml does not exist"):
        load({}, tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load({}, tmp_path)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(SettingsError, match=r"--port: .*, got 'x{79}…$"):
        load({"base": "b", "port": "x" * 500})


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("origin", ["*", "https://a.example", "http://localhost:3000", "app://x"])
def test_origins(origin: str) -> None:
    assert load({"base": "b", "http_cors_origins": [origin]}).http_cors_origins == [origin]


@pytest.mark.parametrize("origin", ["", "a.example", "https://a.example/", "https://*.a", "null"])
def test_origins_that_no_browser_sends(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"is no origin such as https://chat\.example"):
        load({"base": "b", "http_cors_origins": [origin]})


@pytest.mark.parametrize(
    ("names", "why"),
    [(["a", ""], "1 to 256 characters"), (["n" * 257], "1 to 256"), (["b", "x"], "'x' is one of")],
    ids=["empty", "long", "an adapter's"],
)
def test_names_of_the_base_are_its_own(yaml: Path, names: list[str], why: str) -> None:
    assert load({"served_model_names": ["b", "org/b"]}, yaml).served_model_names == ["b", "org/b"]
    with pytest.raises(SettingsError, match=why):
        load({"served_model_names": names}, yaml)
