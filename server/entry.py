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
    from .cli import main as run  # takes a second

    run()


def _end(number: int, frame: FrameType | None) -> None:
    sys.stderr.flush()
    os._exit(128 + number)
