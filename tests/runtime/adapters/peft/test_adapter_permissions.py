"""An adapter whose files this process may not read is refused with that reason, not as missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_runtime import AdapterError, Engine

from ....support.unprivileged import closed


@pytest.fixture
def adapter(tiny_adapters: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(tiny_adapters["a3"], tmp_path / "a3")


@pytest.fixture
def refusal(make_engine: Callable[..., Engine], adapter: Path) -> Callable[..., str]:
    engine = make_engine()

    def refuse(path: Path, mode: int = 0) -> str:
        with closed(path, mode), pytest.raises(AdapterError) as caught:
            engine.load_adapter(adapter, "a3")
        return str(caught.value)

    return refuse


def test_files_and_directories(adapter: Path, refusal: Callable[..., str]) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        said = refusal(adapter / name)
        assert f"{name} cannot be read: user " in said
        assert "may not read it (mode 0000" in said
        assert "chmod o+r, or chmod g+r" in said
    (adapter / "tokenizer.json").write_text("{}")
    assert "tokenizer.json cannot be read: user " in refusal(adapter / "tokenizer.json")
    (adapter / "tokenizer.json").unlink()
    assert "may not enter directory 'a3' (mode 0444" in refusal(adapter, 0o444)
    said = refusal(adapter.parent)
    assert "adapter path 'a3' cannot be read: user " in said
    assert f"may not enter directory '{adapter.parent.name}'" in said
