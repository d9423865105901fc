"""`loramux serve` on this device, and the demo's streams over gRPC."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.carried import THIS_PYTHON, base, environment
from benchmarks.gpu.real_base import expected
from benchmarks.gpu.session.context import Context, Unavailable

ROOT = Path(__file__).parents[3]
_NEEDED = (
    "grpc",
    "google.protobuf",
    "google.rpc.status_pb2",
    "grpc_health.v1.health",
    "grpc_reflection.v1alpha",
    "grpc_status.rpc_status",
    "pydantic",
    "structlog",
    "prometheus_client",
    "typer",
    "yaml",
    "rich",
    "loramux.v1.inference_pb2_grpc",
    "loramux_client",
)
_STOP_S = 15.0
"""Of the stage's time, for the server to end."""


def run(context: Context) -> None:
    """In processes of their own: what was carried is on their paths alone."""
    directory = base(context.carried)
    wanted = {
        (a["adapter"], a["question"]): a["text"] for a in expected(context.carried, directory)
    }
    with tempfile.TemporaryDirectory() as scratch:
        variables = environment(context.carried, Path(scratch))
        variables.pop("TRITON_INTERPRET", None)  # a server on a CPU has C++ kernels
        _check_packages(variables)
        answers = _demo(context, directory, variables, Path(scratch) / "answers.json")
    for answer in answers:
        name = f"{answer['adapter'] or 'base'}: {answer['question']}"
        # In bfloat16 nearly equal logits may change places: the text is then another, and not
        # wrong.
        context.emit(
            name,
            same=answer["text"] == wanted[answer["adapter"], answer["question"]],
            first_token_ms=answer["first_s"] * 1e3,
            tokens=answer["tokens"],
            total_s=answer["total_s"],
            text=answer["text"],
            good=bool(answer["text"].strip()) and answer["tokens"] > 0,
        )


def _check_packages(variables: dict[str, str]) -> None:
    """Raises Unavailable that names what is missing."""
    program = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    try:\n        importlib.import_module(name)\n"
        "    except Exception as error:\n        print(f'{name}: {type(error).__name__}: {error}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *_NEEDED],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    if done.stdout.strip():
        raise Unavailable(
            f"the server needs packages that are neither here nor carried for Python {THIS_PYTHON}: "
            f"{done.stdout.strip()}"
        )


def _demo(
    context: Context, directory: Path, variables: dict[str, str], target: Path
) -> list[dict[str, object]]:
    command = [
        sys.executable,
        str(ROOT / "examples/demo.py"),
        "--base",
        str(directory),
        "--device",
        context.device_name,
        "--json",
        str(target),
    ]
    started = time.perf_counter()
    try:  # what it prints goes to the log at once
        done = subprocess.run(
            command,
            env=variables,
            cwd=ROOT,
            check=False,
            timeout=max(1.0, context.seconds_left() - _STOP_S),
        )
    finally:
        log = directory.parent / "demo-server.log"
        print(
            log.read_text(errors="replace")[-20000:] if log.exists() else "no log of the server",
            flush=True,
        )
    if done.returncode:
        raise RuntimeError(f"the demo ended with {done.returncode}")
    found = json.loads(target.read_text())
    context.emit(
        "server",
        start_s=found["start_s"],
        streams_s=found["streams_s"],
        sum_s=found["sum_s"],
        status=done.returncode,
        all_s=time.perf_counter() - started,
        cores=os.cpu_count(),
    )
    return list(found["answers"])
