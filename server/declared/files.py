"""State of an adapter's directory: has it changed, is it whole, is it still being written?"""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass
from pathlib import Path

from lora_runtime import missing_adapter_file


@dataclass(frozen=True)
class Snapshot:
    """Snapshot of the regular files of one directory, symbolic links followed, names with a leading
    dot left out."""

    files: tuple[tuple[str, int, int, int, int], ...]
    """Files as (name, size, modified, changed, inode); times in nanoseconds. Other content has
    another tuple."""

    def missing(self, directory: Path) -> str:
        """Name of the first file that an adapter cannot do without and that is missing, or ""."""
        return missing_adapter_file(directory, {name for name, *_ in self.files})

    def is_older_than(self, seconds: float) -> bool:
        """True if nothing has changed for that many seconds, by this machine's clock."""
        return (
            max((changed for *_, changed, _ in self.files), default=0)
            < (time.time() - seconds) * 1e9
        )


def snapshot(directory: Path) -> Snapshot:
    """Take a snapshot. Raises OSError."""
    files = []
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            status = path.stat()
        except FileNotFoundError:  # renamed since, or a link whose target is being swapped
            continue
        if stat.S_ISREG(status.st_mode):
            files.append(
                (path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            )
    return Snapshot(tuple(files))


class Settling:
    """Settling of directories: tells those still being written from those that are whole."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._last: dict[Path, Snapshot] = {}
        self._now: dict[Path, Snapshot] = {}

    def reason(self, directory: Path, now: Snapshot) -> str:
        """Reason why the directory cannot be loaded yet, or "": it is whole, and the same as at the
        last look or old."""
        # Several names may share a directory: all compare with the last look.
        self._now[directory] = now
        if missing := now.missing(directory):
            return f"{missing} is missing (pickled weights are never read)"
        if now == self._last.get(directory) or now.is_older_than(self._settle_s):
            return ""
        return "its files are still changing"

    def end_look(self) -> None:
        """End a look: what it asked about is what the next look compares with."""
        self._last, self._now = self._now, {}
