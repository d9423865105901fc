"""Reading an adapter's files: regular, below the allowed roots, within limits, each byte once."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import AdapterError
from ...permissions import why_denied

MAX_NESTED, MAX_VALUES, MAX_DIGITS = 4096, 16_384, 1000
"""Limits of a JSON object's lists and objects, of its commas, and of the digits of a number."""
LFS_POINTER = b"version https://git-lfs"
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class MissingFileError(AdapterError):
    """Error for a file that is not there."""


@contextmanager
def open_regular(path: Path, roots: Sequence[Path] = ()) -> Iterator[tuple[io.FileIO, int]]:
    """Open a regular file; gives the open file and its size in bytes.

    With `roots`, the file that was opened must lie below one of them. Links are followed, and it is
    the open file that is checked: nothing can be swapped in between. Opening does not block,
    whatever lies there. Raises AdapterError for what is missing, not a regular file, outside the
    roots, or fails while it is read.
    """
    try:
        handle = os.open(path, _FLAGS)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path.name} cannot be read: {error.strerror}") from error
    except PermissionError as error:
        raise AdapterError(f"{path.name} cannot be read: {why_denied(path)}") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path.name} cannot be read: {_reason(error)}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise AdapterError(f"{path.name} is not a regular file")
        if roots and not _is_below(handle, path, status, roots):
            raise AdapterError(
                f"{path.name} leads to a file outside the allowed roots: where it is a link, that file "
                "must lie below one too (those of a hub snapshot lead to blobs/ beside snapshots/: "
                "make the directory of both a root, or copy the files)"
            )
        with io.FileIO(handle, "rb", closefd=False) as stream:
            yield stream, status.st_size
    except OSError as error:
        raise AdapterError(f"{path.name} cannot be read: {_reason(error)}") from error
    finally:
        os.close(handle)


def read_limited(path: Path, limit: int, roots: Sequence[Path] = ()) -> bytes:
    """The file's bytes.

    Raises AdapterError when it cannot be read or is larger than `limit` bytes.
    """
    with open_regular(path, roots) as (stream, size):
        check_size(path, size, limit)
        data = bytearray(size)
        fill(stream, memoryview(data), path)
        check_end(stream, path)
    return bytes(data)


def check_size(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise AdapterError(f"{path.name} is larger than the limit of {limit} bytes")


def fill(stream: io.FileIO, view: memoryview, path: Path) -> None:
    """Read exactly as much as fits into `view`."""
    done = 0
    while done < len(view):
        count = stream.readinto(view[done:])
        if not count:
            raise AdapterError(f"{path.name} became shorter while it was read")
        done += count


def check_end(stream: io.FileIO, path: Path) -> None:
    """Check that nothing follows what `fstat` gave as the size.

    An empty file is not read: procfs could block.
    """
    if stream.tell() and stream.read(1):
        raise AdapterError(f"{path.name} became longer while it was read")


def check_values(data: bytes, what: str) -> None:
    """Check that decoding JSON data, which nothing else runs beside, does not take long."""
    if sum(map(data.count, (b"[", b"{"))) > MAX_NESTED or data.count(b",") > MAX_VALUES:
        raise AdapterError(f"{what} holds more than {MAX_NESTED} lists or {MAX_VALUES} values")


def decode_object(data: bytes, what: str) -> dict[str, Any]:
    """JSON data as a dict. Raises AdapterError when it is no JSON object or names a key twice."""
    if data.startswith(LFS_POINTER):
        raise AdapterError(lfs_pointer(what))
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=no_twins,
            parse_int=_integer,
            parse_float=_float,
        )
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{what} is not a JSON object")
    return value


def lfs_pointer(name: str) -> str:
    """The error for a file of which only Git's pointer to it was fetched."""
    return f"{name} is a pointer of Git LFS, not the file itself: fetch it with git lfs pull"


def _integer(text: str) -> int:
    return int(_short(text))


def _float(text: str) -> float:
    return float(_short(text))


def _short(text: str) -> str:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} characters")
    return text


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twin = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twin)} appears twice")
    return found


def shown(value: Any, limit: int = 80) -> str:
    """A value from a file, short and printable, for errors and notes."""
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"


def listed(names: Sequence[object], limit: int = 8) -> str:
    """Names from a file, few and short, for errors and notes."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def _is_below(handle: int, path: Path, status: os.stat_result, roots: Sequence[Path]) -> bool:
    link = Path(f"/proc/self/fd/{handle}")
    real = Path(os.readlink(link)) if link.is_symlink() else Path(os.path.realpath(path))
    if not link.is_symlink() and not os.path.samestat(os.stat(real), status):
        return False
    return any(real.is_relative_to(os.path.realpath(root)) for root in roots)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
