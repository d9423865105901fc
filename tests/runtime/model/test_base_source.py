"""A base whose place is wrong, or whose files this process may not read, is refused by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lora_runtime import BaseModel, BaseModelError
from lora_runtime.adapters.peft.inspect import describe_base
from lora_runtime.permissions import why_denied
from lora_runtime.training.config import TrainConfig
from lora_runtime.training.model import load_base

from ...support.unprivileged import closed


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "base")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"]
)
def test_a_file_that_may_not_be_read_is_named(base: Path, name: str) -> None:
    assert (base / name).is_file()
    with closed(base / name), pytest.raises(BaseModelError) as caught:
        BaseModel.load(base)
    assert str(caught.value).startswith(
        f"base model '{base}': cannot read {name}: user {os.geteuid()} may not read it (mode 0000, user "
    )
    assert "chmod o+r, or chmod g+r" in str(caught.value)
    assert "fsGroup" in str(caught.value)


def test_shards_too(base: Path) -> None:
    shard = base / "model-00002-of-00002.safetensors"
    shard.write_bytes(b"")
    with closed(shard), pytest.raises(BaseModelError, match=f"cannot read {shard.name}: "):
        BaseModel.load(base)


def test_the_directory_itself(base: Path) -> None:
    with closed(base), pytest.raises(BaseModelError) as caught:
        BaseModel.load(base)
    assert f"'{base}' cannot be read: user {os.geteuid()} may not read it (mode 0000" in str(
        caught.value
    )
    assert "chmod o+rx" in str(caught.value)


def test_a_directory_that_may_be_listed_but_not_entered(base: Path) -> None:
    with closed(base, 0o444), pytest.raises(BaseModelError) as caught:
        BaseModel.load(base)
    assert ": cannot read " in str(caught.value)
    assert "may not enter directory 'base' (mode 0444" in str(caught.value)
    assert "chmod o+x" in str(caught.value)


def test_a_directory_on_the_way(base: Path) -> None:
    with closed(base.parent), pytest.raises(BaseModelError) as caught:
        BaseModel.load(base)
    said = (
        f"'{base}' cannot be read: user {os.geteuid()} may not enter directory '{base.parent.name}'"
    )
    assert said in str(caught.value)


def test_a_file_that_is_not_needed_may_be_closed(base: Path) -> None:
    (base / "notes.md").write_text("private")
    with closed(base / "notes.md"):
        BaseModel.load(base, dtype="float32", device="cpu", kernels="torch").close()


def test_training_and_inspection_say_it_too(base: Path, tmp_path: Path) -> None:
    with closed(base / "model.safetensors"):
        with pytest.raises(BaseModelError, match=r"cannot read model\.safetensors: user "):
            load_base(TrainConfig(base=base, data=tmp_path / "rows.jsonl", out=tmp_path / "out"))
        with pytest.raises(BaseModelError, match=r"cannot read model\.safetensors: user "):
            describe_base(base)


def test_a_wrong_place_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = f"'{tmp_path}/none' is not a directory"
    for trust_hub in (False, True):
        with pytest.raises(BaseModelError, match=missing):
            BaseModel.load(tmp_path / "none", trust_hub=trust_hub)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelError, match=f"'models/none' is not .*no {tmp_path}/models/none"):
        BaseModel.load("models/none")
    with pytest.raises(BaseModelError, match=r"config\.json' is not a directory, but a file"):
        BaseModel.load(base / "config.json")


def test_the_words_name_owner_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch(0o600)
    owner, group = path.stat().st_uid, path.stat().st_gid
    assert why_denied(path) == (
        f"user {os.geteuid()} may not read it (mode 0600, user {owner}, group {group}): chmod o+r, "
        "or chmod g+r where the process is in its group (Kubernetes: fsGroup)"
    )
