"""What the Dockerfile copies, and the wheels of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ..support.packages import CLIENT, backend, wheel_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the Dockerfile copies before it installs."""
    target = tmp_path_factory.mktemp("tree")
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    for name in [
        name
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    ]:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so", "build")
            shutil.copytree(ROOT / name, target / name, ignore=ignored, symlinks=True)
        else:
            shutil.copy(ROOT / name, target / name)
    (target / "lora_runtime/kernels/cpu/lib").mkdir(exist_ok=True)
    (target / "lora_runtime/kernels/cpu/lib/loramux-none.so").write_bytes(b"as built for an image")
    return target


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backend("build_sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def client_wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("client")
    return wheel_of(backend("build_sdist", tree / CLIENT, directory), directory)
