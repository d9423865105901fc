"""Folders beside a base in which it is being fetched: each has one writer, and goes with it.

Their locks die with the process, so that whoever fetches next can tell what a killed one left. They
are locks of files because NFS has none of directories that are open for reading.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK = "lock"
_CONTENT = "base"


@contextlib.contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """Make an empty directory on the volume of `target` that is gone at the end, unless it was
    renamed. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _claim(target)
    try:
        content = folder / _CONTENT
        content.mkdir()
        yield content
    finally:
        _remove(folder, lock)


def sweep(target: Path) -> None:
    """Remove what killed fetches left, as far as that may be done."""
    left: list[Path] = []
    with contextlib.suppress(OSError):
        left = [f for f in target.parent.iterdir() if f.name.startswith(_prefix(target))]
    for folder in left:
        if folder.is_symlink():
            continue
        with contextlib.suppress(OSError):  # without a lock: no fetch made it
            if (lock := _try_lock(folder, create=0)) is not None:
                _remove(folder, lock)


def _prefix(target: Path) -> str:
    return f".{target.name}.fetch-"


def _claim(target: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        if (lock := _try_lock(folder, os.O_CREAT)) is not None:
            if os.fstat(lock).st_nlink:
                return folder, lock
            os.close(lock)  # swept before it was locked


def _try_lock(folder: Path, create: int) -> int | None:
    """Lock a folder, with O_CREAT one that has no lock; None if it has a writer. Raises OSError."""
    flags = os.O_RDWR | create | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder / _LOCK, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
    # NFS keeps a file that is open, and with it the folder.
    shutil.rmtree(folder, ignore_errors=True)
