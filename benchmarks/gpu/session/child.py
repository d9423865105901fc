"""A stage's own process: forked from one that has imported everything, or started anew.

Rows go to the lease as lines of JSON; what the stage prints goes to the log.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import math
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from .context import Context, Row, Unavailable

FAILED, UNAVAILABLE = 1, 3
"""Exit statuses."""


def run(job: dict[str, Any], rows: int) -> int:
    """Run the stage that `job` describes; rows go to the file descriptor `rows`. The exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _end_with_the_lease()
    with os.fdopen(rows, "w", encoding="utf-8") as stream:

        def send(row: Row) -> None:
            stream.write(json.dumps(_finite(row), default=str) + "\n")
            stream.flush()

        context = Context(
            job["stage"],
            job["device"],
            job["repeats"],
            Path(job["out"]),
            Path(job["carried"]),
            job["found"],
            send,
            time.monotonic() + job["limit_s"],
        )
        try:
            importlib.import_module(job["module"]).run(context)
        except Unavailable as error:
            print(error, file=sys.stderr, flush=True)
            return UNAVAILABLE
        except BaseException:
            traceback.print_exc()
            return FAILED
    return 0


def _finite(value: Any) -> Any:
    """The same, with what JSON has no numbers for as text."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _end_with_the_lease() -> None:
    """Whatever ends it: a stage that went on would hold the GPU. Linux; elsewhere nothing is done."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def forked(job: dict[str, Any], rows: int, log: int) -> NoReturn:
    """The rest of a process that was just forked."""
    status = FAILED
    try:
        os.setpgid(0, 0)
        for number in (1, 2):
            os.dup2(log, number)
        sys.stdout, sys.stderr = (
            open(number, "w", buffering=1, closefd=False)  # noqa: SIM115
            for number in (1, 2)
        )
        status = run(job, rows)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # what the parent has open is its own to close


def main() -> int:
    """Of a process that was started anew: the job on standard input, the rows' file descriptor as
    argument."""
    return run(json.load(sys.stdin), int(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
