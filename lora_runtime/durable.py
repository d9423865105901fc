"""Files that are whole at any moment, a crash or a full disk included."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Replace a file by write aside, flush, rename: readers see the old bytes or the new ones.

    Raises OSError with its file.
    """
    aside = path.with_name(f".{path.name}.new")
    with naming(path):
        aside.unlink(missing_ok=True)  # of a killed run, or a link that would be followed
        descriptor = os.open(
            aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
        )
        try:
            with open(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
            sync(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError of a write, which has no name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync(path: Path) -> None:
    """Flush a file's content, or which files a directory has, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
