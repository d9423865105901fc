"""One launch of each prefill kernel under compute-sanitizer: does any read or write what is not its own?"""

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
    tools = next((row for row in context.found.get("environment", ()) if row["name"] == "tools"), {})
    tool = tools.get("compute-sanitizer", "")
    tool = tool or (str(_FALLBACK) if _FALLBACK.exists() else "")
    if not context.real or not tool:
        raise Unavailable("compute-sanitizer needs a GPU" if tool or not context.real else "no compute-sanitizer")
    command = [tool, "--tool", "memcheck", "--print-limit", "5", "--error-exitcode", "9",
               sys.executable, "-m", "benchmarks.gpu.sanitized"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, capture_output=True, text=True,
        timeout=max(1.0, context.seconds_left() - 2), check=False)
    print(done.stdout[-4000:], done.stderr[-2000:])
    summary = re.findall(r"ERROR SUMMARY: (\d+) error", done.stdout)
    launched = done.stdout.count("launched ")
    context.emit("memcheck", launched=launched, errors=int(summary[-1]) if summary else -1, status=done.returncode,
                 good=done.returncode == 0 and launched > 0 and summary[-1:] == ["0"])
