"""Run what needs no GPU with the oldest versions, in a plain copy of the repository: `make
gpu-oldest`.

Nothing of loramux is installed there, and packages that a borrowed machine lacks are hidden. The
kernels are compiled for three kinds of GPU, the GPU path's tests run in Triton's interpreter, and a
lease runs twice, the second time going on from the first. What it took is in
benchmarks/results/gpu/oldest.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
COPY = ROOT / ".bench/oldest-copy"
CARRIED = ROOT / ".bench/lease"
RESULTS = ROOT / "benchmarks/results/gpu/oldest.json"
UNRELATED = "tests/benchmarks/test_lora_experiments.py"
"""Its subject is not the GPU path, and it needs matplotlib."""
PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "huggingface_hub",
    "tokenizers",
    "safetensors",
    "numpy",
    "peft",
)


def main() -> int:
    """The exit status: 0 if every step came to its end."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.oldest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stages", help="of the leases; default: all")
    options = parser.parse_args()
    copy()
    steps = [_run(name, command, more) for name, command, more in _steps(options.stages)]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    if options.stages is None:
        about = {"python": sys.version.split()[0], **versions, "steps": steps}
        RESULTS.write_text(json.dumps(about, indent=1) + "\n")
    return 1 if any(step["status"] for step in steps) else 0


def copy() -> None:
    """Make COPY: what git has or would add, and what was carried; no .venv, no .models."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name)
    for name in ("wheels", "base-1", "base-2"):
        if (CARRIED / name).is_dir():
            shutil.copytree(CARRIED / name, COPY / ".bench/lease" / name)
    if (CARRIED / "expected.json").is_file():
        shutil.copy2(CARRIED / "expected.json", COPY / ".bench/lease/expected.json")


def _steps(stages: str | None) -> Iterator[tuple[str, Sequence[str], dict[str, str]]]:
    """(name, arguments of Python, variables)"""
    from benchmarks.gpu.stages.tests import MODULES

    compiled = {"TRITON_INTERPRET": "0"}
    tests = [*(f"tests/runtime/{name}" for name in MODULES), "tests/benchmarks"]
    lease = [
        "-m",
        "benchmarks.gpu.lease",
        "--device",
        "cpu",
        *(["--stages", stages] if stages else []),
    ]
    yield "compile", ["-m", "benchmarks.gpu.compiling", "--check"], compiled
    yield (
        "pack",
        ["-m", "benchmarks.gpu.compiling", "--pack", str(CARRIED / "triton-cache.tar.xz")],
        compiled,
    )
    yield (
        "tests",
        [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            "-n",
            "2",
            "--timeout",
            "300",
            *tests,
            f"--ignore={UNRELATED}",
        ],
        {},
    )
    yield "lease", [*lease, "--out", "first"], {}
    yield "lease again", [*lease, "--out", "second", "--skip-done", "first/lease.json"], {}


def _run(name: str, arguments: Sequence[str], variables: dict[str, str]) -> dict[str, Any]:
    path = os.pathsep.join([str(COPY / "benchmarks/gpu/oldest/hidden"), str(COPY)])
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    print(f"== {name}", flush=True)
    started, last = time.perf_counter(), ""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=COPY,
        env={**inherited, "PYTHONPATH": path, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    seconds = time.perf_counter() - started
    print(f"== {name}: status {process.returncode}, {seconds:.0f} s", flush=True)
    told = last.replace(f"{COPY}/", "").replace(f"{ROOT}/", "")
    return {
        "step": name,
        "status": process.returncode,
        "seconds": round(seconds, 1),
        "last_line": told,
    }


if __name__ == "__main__":
    sys.exit(main())
