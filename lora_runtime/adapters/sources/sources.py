"""Resolution of a source: a directory, the Hugging Face hub, or a store that fsspec reads."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import (
    AdapterError,
    AdapterMissingError,
    AdapterUnavailableError,
    LoramuxError,
)
from ...permissions import why_denied
from . import hub, remote
from .disk_cache import DiskCache
from .source_files import Limits, named, scrub

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_remote(source: str) -> bool:
    """True if `source` is a URL; anything else is a path."""
    return _REMOTE.match(source) is not None


def default_cache_dir() -> Path:
    """loramux's directory in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "loramux" / "adapters"


def resolve(source: str, cache_dir: Path, *, max_bytes: int) -> Path:
    """Directory with the adapter's files: `source`, or where they were fetched to in `cache_dir`.

    Only the configuration, the safetensors weights (at most `max_bytes`) and tokenizer files are
    fetched. Raises AdapterError for a source that cannot be an adapter, AdapterUnavailableError
    when it cannot be reached now. Their messages name the source without credentials.
    """
    if not source or "\0" in source:
        raise AdapterError("an adapter's source must not be empty")
    if not is_remote(source):
        return _local(Path(source))
    _check_url(source)
    fetch = hub.fetch if source.startswith("hf://") else remote.fetch
    try:
        return fetch(source, DiskCache(cache_dir), Limits(max_bytes))
    except LoramuxError:
        raise
    except Exception as error:
        reason = scrub(source, f"{type(error).__name__}: {error}")
    # Outside of the handler: a library's error may hold the whole URL, and would stay attached as
    # the context.
    raise AdapterUnavailableError(f"{named(source)} cannot be fetched: {reason}")


def _local(directory: Path) -> Path:
    try:
        is_directory = stat.S_ISDIR(directory.stat().st_mode)
    except PermissionError as error:
        raise AdapterError(
            f"adapter path {directory.name!r} cannot be read: {why_denied(directory)}"
        ) from error
    except OSError:
        is_directory = False
    if not is_directory:
        raise AdapterMissingError(f"adapter path {directory.name!r} is not a directory")
    return directory


def _check_url(source: str) -> None:
    """Check a URL. Raises AdapterError for one that leaves its own prefix or cannot be split."""
    try:
        path = unquote(urlsplit(source).path)
    except ValueError:
        path = ".."
    if ".." in re.split(r"[/\\]", path):
        raise AdapterError(f"{named(source)} must not contain '..'")
