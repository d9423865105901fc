"""What a lease imports needs none of the packages that a borrowed machine lacks: they are hidden,
and it works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HIDDEN = ROOT / "benchmarks/gpu/oldest/hidden"


def run(
    program: str, *more: Path, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, [HIDDEN, *more, ROOT, ROOT / "protos"]))
    variables = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    start = ["-c", program] if program else []
    return subprocess.run(
        [sys.executable, *start, *arguments],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_they_are_not_found_and_others_are() -> None:
    names = ["pydantic", "structlog", "grpc_health", "google.rpc", "dotenv", "gguf"]
    program = f"""
from importlib.util import find_spec
for name in {names}:
    assert find_spec(name) is None, name
    try:
        __import__(name + ".anything")
    except ModuleNotFoundError as error:
        assert str(error) == f"No module named '{{name}}'", error
    else:
        raise AssertionError(name)
import google.protobuf.message, regex
"""
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_those_that_were_carried_are_found(tmp_path: Path) -> None:
    package = tmp_path / "loramux-wheels-of-a-test/structlog"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("CARRIED = True")
    done = run("import structlog; assert structlog.CARRIED", package.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_stages_find_what_they_import() -> None:
    done = run(
        "import benchmarks.gpu.preload, lora_runtime, sys; assert 'pydantic' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_lease_runs(tmp_path: Path) -> None:
    stages = ("--stages", "errors,decode")
    done = run(
        "",
        arguments=(
            "-m",
            "benchmarks.gpu.lease",
            "--device",
            "cpu",
            "--out",
            str(tmp_path),
            *stages,
        ),
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
