"""One launch of each prefill kernel under compute-sanitizer: does any read or write what is not its
own?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.session.context import Context, Unavailable

ROOT = Path(__file__).parents[3]
_FALLBACK = Path("/usr/local/cuda/bin/compute-sanitizer")


def run(context: Context) -> None:
    """Its process is another one: the sanitizer starts what it watches."""
    tools = next(
        (row for row in context.found.get("environment", ()) if row["name"] == "tools"), {}
    )
    tool = tools.get("compute-sanitizer", "")
    tool = tool or (str(_FALLBACK) if _FALLBACK.exists() else "")
    if not context.real or not tool:
        raise Unavailable(
            "compute-sanitizer needs a GPU" if tool or not context.real else "no compute-sanitizer"
        )
    command = [
        tool,
        "--tool",
        "memcheck",
        "--print-limit",
        "5",
        "--error-exitcode",
        "9",
        sys.executable,
        "-m",
        "benchmarks.gpu.sanitized",
    ]
    told = context.out / "sanitizer.txt"
    status: int | None = None  # what has not ended
    try:
        with told.open("w") as stream:
            status = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=max(1.0, context.seconds_left() - 3),
                check=False,
            ).returncode
    except subprocess.TimeoutExpired:
        print("cut off")
    text = told.read_text(errors="replace")
    print(text[-6000:])
    summary, launched = re.findall(r"ERROR SUMMARY: (\d+) error", text), text.count("launched ")
    found = len(re.findall(r"Invalid __\w+__ (?:read|write)", text))
    clean = (
        launched > 0 and not found and (status is None or (status == 0 and summary[-1:] == ["0"]))
    )
    context.emit(
        "memcheck",
        launched=launched,
        invalid=found,
        errors=int(summary[-1]) if summary else -1,
        status=status,
        good=clean,
    )
