"""What is carried arrives whole or is refused by name, and packages are found without being installed."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu import carried
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


def test_what_is_missing_is_named(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    program = "import carried_by_a_test, loramux.v1, lora_runtime; print(carried_by_a_test.VALUE)"
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"
    assert carried.UNPACKED in variables["PYTHONPATH"]


@pytest.mark.parametrize(("tag", "fits"), [(COMPILED, True), ("cp310-abi3", True), ("cp27", False)])
def test_wheels_for_another_python_are_left(tmp_path: Path, tag: str, fits: bool) -> None:
    wheel(tmp_path / "wheels", f"carried_by_a_test-1.0-{tag}-linux_x86_64.whl")
    assert bool(carried.packages(tmp_path, tmp_path)) == fits
    assert carried.packages(tmp_path / "nothing", tmp_path) == []


def test_the_demo_s_questions_are_read_without_its_imports() -> None:
    assert len(questions()) == 2
    assert equal_tokens([1, 2, 3], [1, 2, 4]) == 2
    assert equal_tokens([1, 2], [1, 2, 3]) == 2
