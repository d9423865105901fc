"""What is carried arrives whole or is refused by name, and packages are found without being
installed."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu import carried, carry
from benchmarks.gpu.carry import cut
from benchmarks.gpu.real_base import equal_tokens, questions
from benchmarks.gpu.session.context import Unavailable

CONTENT = bytes(range(256)) * 40
COMPILED = f"cp{sys.version_info.major}{sys.version_info.minor}"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    source = tmp_path / "base.gguf"
    source.write_bytes(CONTENT)
    cut(source, tmp_path / "carried", first=100)
    return tmp_path / "carried"


def about(parts: Path) -> dict[str, object]:
    return dict(json.loads((parts / "base-1/base.json").read_text()))


def test_parts_make_the_file_again(parts: Path) -> None:
    assert (parts / "base-1/part").stat().st_size == 100
    assert carried.join(parts, about(parts)) == CONTENT


def test_a_part_that_is_spoiled_is_named(parts: Path) -> None:
    whole = (parts / "base-2/part").read_bytes()
    (parts / "base-2/part").write_bytes(whole[:-1])
    with pytest.raises(Unavailable, match="base-2/part of the real base is not what was carried"):
        carried.join(parts, about(parts))


def test_what_is_missing_is_named(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless there is a base of one's own."""
    monkeypatch.setattr(carried, "MODEL", tmp_path / "model")
    (parts / "base-2/part").unlink()
    for place, name in ((parts, "base-2/part"), (tmp_path, "base-1/base.json")):
        with pytest.raises(Unavailable, match=f"no real base: .*{name} was not carried"):
            carried.base(place)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").touch()
    assert carried.base(parts) == tmp_path / "model"


def wheel(directory: Path, name: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(directory / name, "w") as archive:
        archive.writestr("carried_by_a_test/__init__.py", "VALUE = 7\n")


def test_wheels_are_on_the_path_and_not_installed(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "carried_by_a_test-1.0-py3-none-any.whl")
    variables = carried.environment(tmp_path, tmp_path)
    program = "import carried_by_a_test, loramux.v1; print(carried_by_a_test.VALUE)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout == "7\n"
    assert carried.UNPACKED in variables["PYTHONPATH"]


@pytest.mark.parametrize(("tag", "fits"), [(COMPILED, True), ("cp310-abi3", True), ("cp27", False)])
def test_wheels_for_another_python_are_left(tmp_path: Path, tag: str, fits: bool) -> None:
    wheel(tmp_path / "wheels", f"carried_by_a_test-1.0-{tag}-linux_x86_64.whl")
    assert bool(carried.packages(tmp_path, tmp_path)) == fits
    assert carried.packages(tmp_path / "nothing", tmp_path) == []


def test_a_base_that_nothing_here_reads_is_told(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is decompressed; and nothing is left behind."""
    monkeypatch.setattr(carried.sys, "path", [str(tmp_path)])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    before = sorted(parts.iterdir())
    with pytest.raises(Unavailable, match="gguf is neither here nor carried for Python 3"):
        carried.base(parts)
    assert sorted(parts.iterdir()) == before


@pytest.mark.parametrize(
    ("others", "python", "kept"),
    [([], "3.12", True), ([], "3.13", False), (["pytest-0.1-py3-none-any.whl"], "3.12", False)],
)
def test_wheels_are_fetched_anew_unless_all_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[str], python: str, kept: bool
) -> None:
    """In these versions and for that Python; what was there before is gone."""
    fetched: list[list[str]] = []
    monkeypatch.setattr(carry, "PACKAGES", ("pytest",))
    monkeypatch.setattr(carry.subprocess, "run", lambda command, **_: fetched.append(command))
    version = importlib.metadata.version("pytest")
    for name in (f"pytest-{version}-cp312-cp312-linux_x86_64.whl", *others):
        wheel(tmp_path, name)
    carry.wheels(tmp_path, python)
    assert bool(list(tmp_path.iterdir())) == kept
    assert [(c[c.index("--python-version") + 1], c[-1]) for c in fetched] == (
        [] if kept else [(python, f"pytest=={version}")]
    )


THERE = {"numpy", "pyyaml", "tqdm", "requests"}
"""Not carried: transformers needs the first three, and gguf the last only for files at URLs."""


@pytest.mark.parametrize("package", carry.PACKAGES)
def test_what_a_carried_package_needs_is_carried_too(package: str) -> None:
    try:
        needed = [Requirement(text) for text in importlib.metadata.requires(package) or []]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    known = {*THERE, *map(canonicalize_name, carry.PACKAGES)}
    there = {
        "python_version": carry.PYTHON,
        "python_full_version": f"{carry.PYTHON}.0",
        "extra": "",
    }
    assert {
        canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate(there)
    } <= known


def test_a_spoiled_wheel_is_named(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "carried_by_a_test-1.0-py3-none-any.whl")
    (tmp_path / "wheels/carried_by_a_test-1.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(Unavailable, match=r"carried_by_a_test-1.0-py3-none-any.whl is spoiled"):
        carried.packages(tmp_path, tmp_path)


def test_the_demo_s_questions_are_read_without_its_imports() -> None:
    assert len(questions()) == 2
    assert equal_tokens([1, 2, 3], [1, 2, 4]) == 2
    assert equal_tokens([1, 2], [1, 2, 3]) == 2
