"""The demo's base as the example writes it: for other users too, as far as the umask says."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

SCRIPT = Path(__file__).parents[2] / "examples/fetch_base.py"


@pytest.fixture
def script(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which reads the tiny base in place of a GGUF file."""
    for kind in (AutoModelForCausalLM, AutoTokenizer):
        read: Any = kind.from_pretrained
        monkeypatch.setattr(kind, "from_pretrained", lambda _read=read, **_: _read(tiny_base))
    spec = importlib.util.spec_from_file_location("fetch_base", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("umask", "directory_mode", "file_mode"),
    [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640), (0o077, 0o700, 0o600)],
    ids=oct,
)
def test_modes_are_the_umasks(
    script: ModuleType, tmp_path: Path, umask: int, directory_mode: int, file_mode: int
) -> None:
    before = os.umask(umask)
    try:
        script.convert(tmp_path / "model.gguf", tmp_path / "base")
    finally:
        assert os.umask(before) == umask
    names = {file.name for file in (tmp_path / "base").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert modes(tmp_path / "base") == {directory_mode}
    assert modes(*(tmp_path / "base").iterdir()) == {file_mode}


def modes(*paths: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in paths}
