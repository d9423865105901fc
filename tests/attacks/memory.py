"""Memory of a server process and of those that it has started, watched from outside."""

from __future__ import annotations

import threading
from pathlib import Path

from .server import children

EVERY_S = 0.02


def resident_mb(pid: int) -> float:
    """Of one process, in megabytes; 0 if it is gone."""
    return _told(pid, "status", "VmRSS:")


def tree_mb(pid: int) -> float:
    """With the processes that it has started: of what these share with others their part."""
    return resident_mb(pid) + sum(_told(child, "smaps_rollup", "Pss:") for child in children(pid))


def _told(pid: int, file: str, name: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


class MemoryWatch(threading.Thread):
    """Sees the highest memory of a process between enter and exit."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._over = pid, threading.Event()
        self.before = self.peak = tree_mb(pid)

    def run(self) -> None:
        while not self._over.wait(EVERY_S):
            self.peak = max(self.peak, tree_mb(self._pid))

    def __enter__(self) -> MemoryWatch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
