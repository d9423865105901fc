"""Weights in shards with an index are read as one file's; what does not fit together is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_runtime import AdapterError, inspect_adapter
from lora_runtime.adapters.peft.inspect import DescribedBase, describe_base
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.read_budget import ReadBudget
from lora_runtime.adapters.peft.shards_index import MAX_INDEX_BYTES, parse_index
from lora_runtime.adapters.peft.update import CheckedAdapter

from ....support.adapters import open_files

WEIGHTS = "adapter_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARDS = [f"adapter_model-0000{i}-of-00002.safetensors" for i in (1, 2)]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> DescribedBase:
    return describe_base(tiny_base)


@pytest.fixture
def whole(tiny_adapters: dict[str, Path]) -> Path:
    return tiny_adapters["a3"]


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> Path:
    """The same adapter, in two shards."""
    directory = shutil.copytree(whole, tmp_path / "parts")
    tensors = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    names = sorted(tensors)
    for shard, part in zip(SHARDS, (names[:5], names[5:]), strict=True):
        save_file({name: tensors[name] for name in part}, directory / shard)
    index = {name: SHARDS[i >= 5] for i, name in enumerate(names)}
    write_index(directory, index)
    return directory


def write_index(directory: Path, index: Any) -> None:
    text = {"metadata": {"total_size": 1}, "weight_map": index}
    (directory / INDEX).write_text(json.dumps(text))


def index_of(directory: Path) -> dict[str, str]:
    return json.loads((directory / INDEX).read_text())["weight_map"]


def read(directory: Path, base: DescribedBase, **options: Any) -> CheckedAdapter:
    options = {"max_bytes": 1 << 30, "max_added_tokens": 0} | options
    return read_adapter(directory, base, **options)


def assert_refused(directory: Path, base: DescribedBase, names: str, **options: Any) -> None:
    files = open_files()
    with pytest.raises(AdapterError, match=names):
        read(directory, base, **options)
    assert open_files() == files


def test_shards_are_read_as_one_file(
    base: DescribedBase, whole: Path, parts: Path, tiny_base: Path
) -> None:
    budget = ReadBudget(1)
    share = budget.share()
    one, other = read(whole, base), read(parts, base, share=share)
    assert budget.used == sum(m.num_bytes for m in other.modules)
    assert one.modules == other.modules
    for name, update in one.updates.items():
        assert torch.equal(update.b, other.updates[name].b)  # type: ignore[arg-type]
    assert inspect_adapter(parts, tiny_base).version == other.version
    assert len(inspect_adapter(parts).modules) == len(one.modules)


def test_the_version_is_that_of_index_and_shards(base: DescribedBase, parts: Path) -> None:
    versions = {read(parts, base).version}
    tensors = load_file(parts / SHARDS[1])
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, parts / SHARDS[1])
    versions.add(read(parts, base).version)
    (parts / INDEX).write_text((parts / INDEX).read_text() + " ")
    versions.add(read(parts, base).version)
    assert len(versions) == 3


def test_one_file_comes_first_as_in_peft(base: DescribedBase, whole: Path, parts: Path) -> None:
    shutil.copy(whole / WEIGHTS, parts)
    assert read(parts, base).version == read(whole, base).version


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda d: write_index(d, {}), "has no weight_map"),
        (lambda d: write_index(d, []), "has no weight_map"),
        (lambda d: (d / INDEX).write_text("[" * 9999), "is not a JSON object"),
        (lambda d: (d / INDEX).write_text('{"weight_map": {}'), "index.json is not valid JSON"),
        (lambda d: (d / INDEX).write_text('{"other": {}}'), "has no weight_map"),
        (lambda d: (d / INDEX).write_text('{"other": {"a"}}'), "holds 'other', which is not valid"),
        (
            lambda d: (d / INDEX).write_text(json.dumps({"other": "a" * 8192})),
            "holds 'other', which is not valid JSON or longer than 8192 characters",
        ),
        (
            lambda d: (d / INDEX).write_text(json.dumps(dict.fromkeys(map(str, range(65))))),
            "more than 64 members beside its weight_map",
        ),
        (lambda d: (d / INDEX).write_bytes(b" " * (5 << 20)), "larger than the limit"),
        (
            lambda d: (d / INDEX).write_text(
                (d / INDEX)
                .read_text()
                .replace(
                    '"weight_map": {', '"weight_map": {"x": "a.safetensors", "x": "a.safetensors",'
                )
            ),
            "names the tensor 'x' twice",
        ),
        (
            lambda d: write_index(d, dict.fromkeys(map(str, range(32769)), SHARDS[0])),
            "more than 32768 tensors",
        ),
        (
            lambda d: write_index(d, {f"t{i}": f"s{i}.safetensors" for i in range(65)}),
            "more than 64 files",
        ),
        (lambda d: (d / SHARDS[1]).unlink(), f"names '{SHARDS[1]}', which is missing"),
        (
            lambda d: write_index(d, index_of(d) | {"more": SHARDS[0]}),
            f"{SHARDS[0]} does not hold the tensor 'more'",
        ),
        (
            lambda d: write_index(d, {k: v for k, v in index_of(d).items() if v == SHARDS[0]}),
            "has no lora_[AB] in the file",
        ),
        (
            lambda d: write_index(d, dict(list(index_of(d).items())[1:])),
            f"{SHARDS[0]} holds the tensor .*, which .* does not have in it",
        ),
        (
            lambda d: save_file(
                load_file(d / SHARDS[1]) | dict(list(load_file(d / SHARDS[0]).items())[:1]),
                d / SHARDS[1],
            ),
            f"{SHARDS[1]} holds the tensor",
        ),
        *(
            (lambda d, file=file: write_index(d, index_of(d) | {"x": file}), "no name of a shard")
            for file in (
                "../x.safetensors",
                "/etc/x.safetensors",
                "a/x.safetensors",
                "..\\x.safetensors",
                ".x.safetensors",
                "adapter_model.bin",
                "",
                3,
            )
        ),
    ],
    ids=range(25),
)
def test_what_does_not_fit_together(
    base: DescribedBase, parts: Path, change: Callable[[Path], Any], names: str
) -> None:
    change(parts)
    assert_refused(parts, base, names)


@pytest.mark.parametrize("indent", [None, 2])
def test_indexes_as_json_has_them(indent: int | None) -> None:
    """Whatever the names hold, the map is that which json.loads finds."""
    names = ["a", "é", '"', "\\", "{", "}", ",", ": {", "\n"]
    found = {name: f"s{i % 2}.safetensors" for i, name in enumerate(names)}
    for text in (
        {"metadata": {"total_size": 1.5, "a": "b"}, "weight_map": found},
        {"weight_map": found, "metadata": {}},
        {"metadata": None, "weight_map": found, "format": "pt"},
        {"metadata": {"from": {"tool": "{a}"}}, "weight_map": found},
        {"weight_map": found},
    ):
        index = parse_index(json.dumps(text, indent=indent).encode())
        assert {name: file for file, inside in index.items() for name in inside} == found


def test_an_index_is_decoded_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    longest, loads = 0, json.loads

    def watched(text: str, **options: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(text))
        return loads(text, **options)

    monkeypatch.setattr(json, "loads", watched)
    for before, unit in (('{"weight_map":{"', "\\u0041"), ('{"metadata":{"a":[', "[],"), ("", "[")):
        with pytest.raises(AdapterError):
            parse_index((before + unit * (MAX_INDEX_BYTES // len(unit) - 9)).encode())
    assert longest < 4096


def test_all_limits_are_of_the_shards_together(
    base: DescribedBase, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(parts / shard).stat().st_size for shard in SHARDS]
    assert read(parts, base, max_bytes=sum(sizes)).version
    assert_refused(parts, base, "larger than the limit", max_bytes=sum(sizes) - 1)
    header = "lora_runtime.adapters.peft.safetensors_header"
    with monkeypatch.context() as patch:
        patch.setattr(f"{header}.MAX_TENSORS", len(index_of(parts)) - 1)
        assert_refused(parts, base, "index.json names more than [0-9]+ tensors")
    lengths = [int.from_bytes((parts / s).read_bytes()[:8], "little") for s in SHARDS]
    monkeypatch.setattr(f"{header}.MAX_HEADER_BYTES", sum(lengths) - 1)
    assert_refused(parts, base, f"{SHARDS[1]} is corrupt: its header of .* is over the limit")


@pytest.mark.parametrize("name", [INDEX, SHARDS[1]])
def test_links_out_of_the_roots(
    base: DescribedBase, parts: Path, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.move(parts / name, outside / name)
    (parts / name).symlink_to(outside / name)
    assert_refused(parts, base, f"{name} leads to a file outside", roots=[parts])
    assert read(parts, base, roots=[parts, outside]).version


def test_what_is_missing_is_said(base: DescribedBase, whole: Path, parts: Path) -> None:
    (parts / INDEX).unlink()
    assert_refused(
        parts, base, rf"in shards \({SHARDS[0]}\), and {INDEX} is missing.*join the shards"
    )
    for shard in SHARDS:
        (parts / shard).unlink()
    assert_refused(
        parts, base, rf"{WEIGHTS} is missing from 'parts' \(pickled weights are never read"
    )
    (parts / "model.safetensors").write_bytes(b"")
    assert_refused(parts, base, "'model.safetensors' is there, which is not the name")
    (parts / "adapter_model.bin").write_bytes(b"")
    assert_refused(parts, base, "adapter_model.bin is pickled, .* never read.* save_pretrained")


def test_where_else_an_adapter_lies_is_said(
    base: DescribedBase, parts: Path, tmp_path: Path
) -> None:
    """A run's directory is named instead of a checkpoint in it, or a whole model."""
    assert_refused(tmp_path, base, "there is one in 'parts' below it")
    (parts / "adapter_config.json").unlink()
    assert_refused(parts, base, "adapter_config.json is missing from 'parts'$")
    (parts / "config.json").write_text("{}")
    assert_refused(parts, base, "as whole models have")


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json"])
def test_a_pointer_of_git_lfs_is_called_so(base: DescribedBase, parts: Path, name: str) -> None:
    (parts / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert_refused(parts, base, f"{name} is a pointer of Git LFS")
