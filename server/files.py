"""Files that are replaced while the server runs."""

from __future__ import annotations

from pathlib import Path

Stamp = tuple[int, int, int] | None


def stamp(path: Path) -> Stamp:
    """Stamp that changes when the file is written or replaced, links followed; None when gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
