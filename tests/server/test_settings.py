"""Settings: where a value comes from, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lora_runtime import AdapterPolicy, EngineConfig
from lora_runtime.settings import Setting
from server.config import Settings, SettingsError, load


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
    with pytest.raises(SettingsError, match=f"{setting.name}: "):
        load({"base": "b", **bad})
    if setting.limit.checked:
        with pytest.raises(
            ValueError, match=re.escape(f"{setting.name} must {setting.limit.demand}, got")
        ):
            EngineConfig(**bad)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({}, "base"),
        ({"base": "b", "port": 70000}, "port"),
        ({"base": "b", "dtype": "int3"}, "dtype"),
        ({"base": "b", "nonsense": 1}, "nonsense"),
        ({"base": "b", "max_running": 64, "max_batch_tokens": 8}, "max_batch_tokens"),
        ({"base": "b", "keepalive_s": 0}, "keepalive_s"),
        ({"base": "b", "policies": {"a": {"weight": 0}}}, r"policies\.a\.weight"),
        ({"base": "b", "policies": {"a": {"nonsense": 1}}}, r"policies\.a\.nonsense"),
    ],
    ids=str,
)
def test_refusals_name_the_field(flags: dict, names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        load(flags)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load({}, tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    for text, names in (
        ("base: b\nunknown_key: 1", "unknown_key"),
        ("base: [", "bad.yaml"),
        ("- base", "bad.yaml"),
    ):
        bad.write_text(text)
        with pytest.raises(SettingsError, match=names):
            load({}, bad)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
