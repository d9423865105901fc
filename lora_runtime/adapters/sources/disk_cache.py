"""Cache of fetched adapters on disk, by content.

`<cache>/<sha256>/` holds the files, `<cache>/refs/` what was found where.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ...durable import sync

_CONTENT = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = "tmp-"
LOCK_WAIT_S = 10.0
"""Seconds to wait for another process, which holds the lock for a look or a renaming."""
_POLL_S = 0.02


class DiskCache:
    """Cache for several threads and processes at once. Raises OSError where the disk refuses."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Make an empty directory inside the cache that is gone at the end; what crashed processes
        left goes first."""
        _remove_leftovers(self._root)
        directory, claim = _claim(self._root)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(claim)

    def store(self, directory: Path) -> Path:
        """Move the files of `directory` (flat, inside `staging`) to where their content belongs;
        gives that place."""
        for path in (*directory.iterdir(), directory):
            sync(path)
        content = self._root / digest(directory)
        with _locked(self._root, fcntl.LOCK_EX):
            if content.is_dir() and not _is_intact(content):
                content.rename(directory.parent / "damaged")
            if content.is_dir():
                os.utime(content)
            else:
                directory.rename(content)
                sync(self._root)
        return content

    def remember(self, key: str, content: Path) -> None:
        """Let `lookup(key)` give `content` from now on.

        A key names immutable content: a commit, entity tags.
        """
        refs = self._root / "refs"
        refs.mkdir(mode=0o700, exist_ok=True)
        with self.staging() as directory:
            (directory / "ref").write_text(content.name)
            (directory / "ref").rename(refs / _hash(key))

    def lookup(self, key: str) -> Path | None:
        """Look up what was remembered under `key`, if its files still are what they were."""
        try:
            name = (self._root / "refs" / _hash(key)).read_text()
        except FileNotFoundError:
            return None
        content = self._root / name
        # A sweep must not take it between the look and the mark.
        with _locked(self._root, fcntl.LOCK_SH):
            if not _CONTENT.fullmatch(name) or not content.is_dir():
                return None
            os.utime(content)
        return content if _is_intact(content) else None


def sweep(cache_dir: Path, max_bytes: int, keep: set[Path], grace_s: float = 300) -> list[Path]:
    """Remove the least recently used until `max_bytes` are left; gives the directories that went.

    Those in `keep` stay, and those used in the last `grace_s` seconds: somebody may be about to
    read them. So the cache may stay above its limit.
    """
    if not cache_dir.is_dir():
        return []
    cache, kept = DiskCache(cache_dir), {path.resolve() for path in keep}
    entries = sorted(_entries(cache_dir))
    total = sum(size for _, size, _ in entries)
    newest = time.time() - grace_s
    removed: list[Path] = []
    with cache.staging() as directory:
        for used, size, path in entries:
            if total <= max_bytes or used > newest:
                break
            if path.resolve() not in kept and _take(cache_dir, path, used, directory / path.name):
                total -= size
                removed.append(path)
    _forget(cache_dir / "refs", {path.name for path in removed})
    return removed


def digest(directory: Path) -> str:
    """Hex SHA-256 of the names and contents of the files in a flat directory."""
    total = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        with path.open("rb") as stream:
            total.update(
                path.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest()
            )
    return total.hexdigest()


def _is_intact(content: Path) -> bool:
    try:
        return digest(content) == content.name
    except OSError:
        return False


def _entries(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Entries (last use, bytes, directory), one for each content."""
    for content in root.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process sweeps too
            if _CONTENT.fullmatch(content.name):
                size = sum(path.stat().st_size for path in content.iterdir())
                yield content.stat().st_mtime, size, content


def _take(root: Path, content: Path, used: float, target: Path) -> bool:
    """Move an entry away unless it was used meanwhile or is gone."""
    with _locked(root, fcntl.LOCK_EX), contextlib.suppress(FileNotFoundError):
        if content.stat().st_mtime == used:
            content.rename(target)
            return True
    return False


def _forget(refs: Path, names: set[str]) -> None:
    for ref in refs.iterdir() if names and refs.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if ref.read_text() in names:
                ref.unlink()


def _claim(root: Path) -> tuple[Path, int]:
    """Make a temporary directory, and a lock on it that dies with the process."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root))
        claim = _try_lock(directory)
        if claim is not None:
            if directory.is_dir():
                return directory, claim
            os.close(claim)  # taken for a leftover before it was locked


def _remove_leftovers(root: Path) -> None:
    for directory in root.glob(f"{_TEMPORARY}*"):
        claim = _try_lock(directory)
        if claim is not None:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(claim)


def _try_lock(directory: Path) -> int | None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    if not _try_flock(descriptor, fcntl.LOCK_EX):
        os.close(descriptor)
        return None
    return descriptor


def _try_flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _locked(root: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + LOCK_WAIT_S
        while not _try_flock(descriptor, kind):
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"another process holds the lock of the cache for {LOCK_WAIT_S} s"
                )
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
