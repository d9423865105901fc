"""The tests of the GPU path, compiled: in the order of how much a failure would say."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.gpu.session.context import Context, Unavailable

ROOT = Path(__file__).parents[3]
MODULES = [
    "kernels/test_triton_lora.py",
    "kernels/test_triton_attention.py",
    "backends/triton/test_device_runner.py",
    "backends/triton/test_device_slots.py",
    "backends/triton/test_device_peft.py",
    "adapters/store/test_slot_memory.py",
    "backends/triton/test_step_buffers.py",
    "backends/triton/test_fused.py",
    "kernels/test_prefill_tiles.py",
    "backends/triton/test_cuda_calls.py",
    "backends/triton/test_graph_steps.py",
    "backends/test_staging.py",
    "backends/triton/test_placement.py",
]
"""Of tests/runtime: none needs more than torch, transformers, peft and hypothesis."""
TINY_MODULES = ["kernels/test_lora_plan.py"]
"""Without a GPU the others are left to `make test`, which has them."""

_WORKER = re.compile(r"^\[gw\d+\] +\[ *\d+%\] (?P<outcome>[A-Z]+) (?P<test>\S+::.+?)\s*$")
_ALONE = re.compile(r"^(?P<test>\S+::.+?) (?P<outcome>[A-Z]+)\b.*\[ *\d+%\]\s*$")
"""Lines of `pytest -v` with several workers and without."""


def run(context: Context) -> None:
    if importlib.util.find_spec("pytest") is None:
        raise Unavailable("no pytest")
    parallel = importlib.util.find_spec("xdist") is not None
    targets = [f"tests/runtime/{name}" for name in (MODULES if context.real else TINY_MODULES)]
    options = ["-v", "-p", "no:cacheprovider", "-m", "not slow", "--color=no", "-rN"]
    if parallel and context.real:
        options += ["-n", "8", "--dist", "loadfile"]
    if importlib.util.find_spec("pytest_timeout") is not None:
        options += ["--timeout", "60"]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "TRITON_INTERPRET" or not context.real
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *targets],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    counts, summary = Counter[str](), ""
    for line in process.stdout:
        print(line, end="", flush=True)
        summary = line.strip("= \n") or summary
        if ended := _WORKER.match(line) or _ALONE.match(line):
            counts[ended["outcome"]] += 1
            if ended["outcome"] in ("FAILED", "ERROR"):
                context.emit(ended["test"], outcome=ended["outcome"], good=False)
            if counts.total() % 20 == 0:  # what is known should the stage be cut off
                context.emit("pytest", summary="not ended", **counts)
    status = process.wait()
    context.emit(
        "pytest", summary=summary, modules=targets, status=status, good=status == 0, **counts
    )
