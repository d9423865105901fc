"""Using what `benchmarks.gpu.carry` gathered: packages on the path, the real base put together."""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from benchmarks.gpu.session.context import Unavailable

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".models/SmolLM2-135M-Instruct"
UNPACKED = "loramux-wheels-"
"""What the names of directories with unpacked wheels begin with."""
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def packages(carried: Path, scratch: Path) -> list[Path]:
    """What to put on PYTHONPATH: the wheels, unpacked below `scratch`, since a zip's extension
    modules cannot be imported; nothing where none were carried, or for another Python than this
    one."""
    wheels = sorted((carried / "wheels").glob("*.whl"))
    if not wheels or not all(fits(wheel, THIS_PYTHON) for wheel in wheels):
        return []
    target = Path(tempfile.mkdtemp(prefix=UNPACKED, dir=scratch))
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
        except zipfile.BadZipFile as error:
            raise Unavailable(f"the carried {wheel.name} is spoiled: {error}") from error
    return [target]


def fits(wheel: Path, python: str) -> bool:
    """Whether a Python of this version, such as 3.12, can import it."""
    return any(
        part in wheel.name for part in ("-any.whl", "-abi3-", f"-cp{python.replace('.', '')}-")
    )


def environment(carried: Path, scratch: Path) -> dict[str, str]:
    """Of a process that is to find the packages, loramux and its generated code."""
    paths = [*packages(carried, scratch), ROOT, ROOT / "protos", ROOT / "clients/python"]
    before = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([before] if before else [])]),
    }


def base(carried: Path) -> Path:
    """The real base's directory: made of the carried parts, or the one that `make base` made here.

    Raises Unavailable where there is neither, or a part is not what was carried.
    """
    target = carried / "base"
    if (target / "config.json").is_file():
        return target
    about = carried / "base-1/base.json"
    lacking = about
    if about.is_file():
        parts = json.loads(about.read_text())
        lacking = next(
            (carried / p["path"] for p in parts["parts"] if not (carried / p["path"]).is_file()),
            None,
        )
        if lacking is None:
            return _made_of_parts(carried, parts, target)
    if (MODEL / "config.json").is_file():
        return MODEL
    raise Unavailable(f"no real base: {lacking} was not carried, and there is no {MODEL}")


def _made_of_parts(carried: Path, about: dict[str, object], target: Path) -> Path:
    """The weights of the file, and what else a base has as it was carried."""
    with tempfile.TemporaryDirectory(dir=carried) as scratch:
        gguf, made = Path(scratch) / str(about["name"]), Path(scratch) / "base"
        variables = environment(carried, Path(scratch))
        _check_reader(variables)
        gguf.write_bytes(join(carried, about))
        command = [
            sys.executable,
            str(ROOT / "examples/fetch_base.py"),
            "--gguf",
            str(gguf),
            "--target",
            str(made),
        ]
        subprocess.run(command, check=True, env=variables, stdout=sys.stderr)
        if (files := carried / "base-1/files").is_dir():
            shutil.copytree(files, made, dirs_exist_ok=True)
        made.rename(target)
    return target


def _check_reader(variables: dict[str, str]) -> None:
    """Raises Unavailable where a process with `variables` would not find what reads the base's
    file."""
    paths = [*variables["PYTHONPATH"].split(os.pathsep), *sys.path]
    if importlib.machinery.PathFinder.find_spec("gguf", paths) is None:
        raise Unavailable(
            "the real base cannot be read: the package gguf is neither here nor carried for Python "
            f"{THIS_PYTHON}"
        )


def join(carried: Path, about: dict[str, object]) -> bytes:
    """The file that was cut. Raises Unavailable that names the part that is spoiled."""
    parts = []
    for part in about["parts"]:  # type: ignore[attr-defined]
        parts.append((carried / part["path"]).read_bytes())
        if hashlib.sha256(parts[-1]).hexdigest() != part["sha256"]:
            raise Unavailable(f"{part['path']} of the real base is not what was carried")
    content = lzma.decompress(b"".join(parts))
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise Unavailable("the parts of the real base do not make the file that was cut")
    return content
