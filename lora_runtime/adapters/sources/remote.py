"""Adapters in a store that fsspec reads: a URL prefix under which the adapter's files lie."""

from __future__ import annotations

import _thread
import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec.core
from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback

from ...errors import AdapterError, AdapterUnavailableError
from ..peft.absent import CONFIG
from ..peft.shards_index import INDEX, WEIGHTS
from .disk_cache import DiskCache
from .source_files import (
    OPTIONAL,
    Limits,
    check_complete,
    missing_shard,
    named,
    redact,
    shards_of,
)

_PACKAGES = {
    "file": "",
    "memory": "",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "oci": "ocifs",
    "oss": "ossfs",
    "hdfs": "pyarrow",
    "webhdfs": "requests",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "ftp": "",
    "smb": "smbprotocol",
}
"""Packages that fsspec needs, by protocol. fsspec's wrappers (zip://, simplecache::, ...) are not
among these: they read files of this machine, or chain to any other URL."""
_MAY_BE_MISSING = {INDEX, *OPTIONAL}
_ATTEMPTS = 3
_CONNECT_S, _READ_S = 30, 60
_SLOWEST = 16 << 10
"""Bytes per second that a download has at least, but for its first minute: it holds a thread."""


@dataclass(frozen=True)
class _Stamp:
    """Stamp that tells one state of a file from another."""

    size: int | None
    etag: str
    modified: str


class _Counter(Callback):
    """Counter that ends a download which goes over its limit, or comes in drops."""

    def __init__(self, source: str, name: str, limits: Limits) -> None:
        super().__init__()
        self._check = lambda size: limits.check(source, name, size)
        self._name, self._began = f"{named(source)}: {name}", time.monotonic()

    def set_size(self, size: int | None) -> None:
        self._check(size)
        super().set_size(size)

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._check(self.value)
        if self.value < _SLOWEST * (time.monotonic() - self._began - _READ_S):
            raise AdapterUnavailableError(
                f"{self._name} comes with less than {_SLOWEST} bytes a second"
            )


def fetch(source: str, cache: DiskCache, limits: Limits) -> Path:
    """Fetch the adapter's files; gives their directory in the cache.

    The store is asked each time; files with known entity tags are not sent again. Raises
    AdapterError for what cannot be an adapter, AdapterUnavailableError, and the file system's own
    errors.
    """
    store = _Store(source)
    for _ in range(_ATTEMPTS):
        before = store.stamps(limits)
        key = _key(source, before)
        if key and (hit := cache.lookup(key)):
            return hit
        with cache.staging() as directory:
            content = directory / "content"
            content.mkdir()
            sizes: dict[str, int] = {}
            for name in before:
                sizes[name] = store.download(name, content / name, limits.beside(sizes))
            whole = all(stamp.size in (None, sizes[name]) for name, stamp in before.items())
            # Files of two uploads must not end up beside each other.
            if whole and store.stamps(limits) == before:
                stored = cache.store(content)
                if key:
                    cache.remember(key, stored)
                return stored
    raise AdapterUnavailableError(
        f"{named(source)} keeps changing while it is fetched, or its files end early"
    )


class _Store:
    """Store behind one URL prefix."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._fs, self._root = _open(source)
        self._is_http = urlsplit(source).scheme in ("http", "https")

    def stamps(self, limits: Limits) -> dict[str, _Stamp]:
        """Stamps of the files that are there.

        Raises AdapterError when a required one is missing or one is too large.
        """
        found: dict[str, _Stamp] = {}
        self._look(CONFIG, limits, found)
        self._look_for_weights(limits, found)
        for name in OPTIONAL:
            self._look(name, limits, found)
        check_complete(self._source, found)
        return found

    def _look(self, name: str, limits: Limits, found: dict[str, _Stamp]) -> bool:
        """Look for a file and keep its stamp; gives whether it is there."""
        info = self._info(name)
        if info is None:
            return False
        if info.get("type", "file") != "file":
            raise AdapterError(f"{named(self._source)}: {name} is not a file")
        limits.check(self._source, name, info.get("size"))
        found[name] = _stamp(info)
        return True

    def _look_for_weights(self, limits: Limits, found: dict[str, _Stamp]) -> None:
        """Look for the weights in one file, else for an index and the shards that it names."""
        denied: Exception | None = None
        try:
            if self._look(WEIGHTS, limits, found):
                return
        except Exception as error:
            if not _is_denied(error):
                raise
            denied = error  # it may be missing: stores say so of both
        if not self._look(INDEX, limits, found):
            if denied is not None:
                raise denied
            return
        with tempfile.TemporaryDirectory(prefix="loramux-index-") as directory:
            path = Path(directory) / INDEX
            self.download(INDEX, path, limits)
            shards = shards_of(self._source, path.read_bytes())
        for name in shards:
            sizes = {shard: stamp.size for shard, stamp in found.items()}
            if not self._look(name, limits.beside(sizes), found):
                raise missing_shard(self._source, name)

    def download(self, name: str, target: Path, limits: Limits) -> int:
        """Download a file; gives the number of bytes that arrived.

        Raises AdapterError when it is too large.
        """
        self._fs.get_file(
            self._path(name), str(target), callback=_Counter(self._source, name, limits)
        )
        size = target.stat().st_size
        limits.check(self._source, name, size)  # not every file system counts
        return size

    def _info(self, name: str) -> dict[str, Any] | None:
        """Ask for a file's description, None where it is not there; a failing server is not taken
        for one without the file."""
        try:
            return self._fs.info(self._path(name))
        except FileNotFoundError as error:
            # fsspec's HTTP says "not found" whatever went wrong, and keeps the reason as the cause.
            # Stores say 403 for missing files to those who may not list.
            status = getattr(error.__cause__, "status", None)
            if (
                error.__cause__ is None
                or status in (404, 410)
                or (status == 403 and name in _MAY_BE_MISSING)
            ):
                return None
            raise (error.__cause__ if isinstance(error.__cause__, Exception) else error) from None
        except PermissionError:
            if name in _MAY_BE_MISSING:
                return None
            raise

    def _path(self, name: str) -> str:
        if not self._is_http:
            return f"{self._root.rstrip('/')}/{name}"
        parts = urlsplit(self._source)  # the query may be the key to the whole prefix
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}", fragment=""))


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or getattr(error, "status", None) == 403


def _open(source: str) -> tuple[AbstractFileSystem, str]:
    protocol = urlsplit(source).scheme
    if protocol not in _PACKAGES or "::" in source:
        raise AdapterError(f"{named(source)}: protocol {redact(protocol)!r} is not supported")
    # No listing that an earlier call left, so that a changed store shows.
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    with contextlib.suppress(ImportError):
        if protocol in ("http", "https"):
            import aiohttp

            from .http_calls import ResponseInTime, requests_below

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S)
            options["client_kwargs"] = {
                "timeout": timeout,
                "trust_env": True,
                "request_class": requests_below(source),
                "response_class": ResponseInTime,
            }
        fs, root = fsspec.core.url_to_fs(source, **options)
        _close_elsewhere(fs)
        return fs, root
    raise AdapterUnavailableError(
        f"{named(source)} needs the package {_PACKAGES[protocol]!r}, which is not installed"
    )


def _close_elsewhere(fs: AbstractFileSystem) -> None:
    """Let a thread of its own close the file system's session, in the end.

    fsspec closes it where garbage is collected, and waits there: a second and more for each, on the
    event loop or the engine's thread.
    """
    close = getattr(type(fs), "close_session", None)
    if close is None:
        return

    def begin(*session: Any) -> None:
        # Not threading's: whoever collects may have its locks. At the end no thread starts.
        with contextlib.suppress(RuntimeError):
            _thread.start_new_thread(close, session)

    fs.close_session = begin


def _stamp(info: Mapping[str, Any]) -> _Stamp:
    def first(*names: str) -> str:
        return next((str(info[name]) for name in names if info.get(name)), "")

    return _Stamp(
        info.get("size"),
        first("ETag", "etag", "md5Hash"),
        first(
            "LastModified",
            "Last-Modified",
            "last_modified",
            "updated",
            "mtime",
            "modified",
            "created",
        ),
    )


def _key(source: str, stamps: Mapping[str, _Stamp]) -> str:
    """Key that names this state of the files, or "" where the store gives no strong entity tags
    (RFC 9110, 8.8.3)."""
    if any(not stamp.etag or stamp.etag.startswith("W/") for stamp in stamps.values()):
        return ""
    return "\n".join(
        [
            redact(source),
            *(f"{name} {stamps[name].size} {stamps[name].etag}" for name in sorted(stamps)),
        ]
    )
