"""The process's first act: a signal ends it from here on.

As a container's first process it would not hear SIGTERM otherwise until the server listens to it,
seconds later: the kernel gives such a process no default action.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line: entry point of the console script."""
    signal.signal(signal.SIGTERM, _end)
    _open_outputs()
    if sys.argv[1:2] == ["health"]:
        from .lifecycle import probe

        sys.exit(probe.main(sys.argv[2:]))
    from .cli import main as run  # takes a second

    run()


def _open_outputs() -> None:
    """Open those of standard input and outputs that are closed: a socket would take their numbers,
    and what is written to them would go there."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the least number that is free
            os.set_inheritable(null, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _end(number: int, frame: FrameType | None) -> None:
    sys.stderr.flush()
    os._exit(128 + number)
