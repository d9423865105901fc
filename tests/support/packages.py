"""Building of what is installed, without an index."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

CLIENT = "clients/python"


def backend(hook: str, source: Path, target: Path) -> Path:
    """What pip and build ask setuptools for, with the setuptools that is here: no index is needed."""
    program = (
        f"import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


def wheel_of(sdist: Path, directory: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    return backend("build_wheel", directory / sdist.name.removesuffix(".tar.gz"), directory)
