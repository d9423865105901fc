"""A base in a directory: whole or not at all, and known again at the next start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lora_runtime import redact, scrub

from ..files import sync
from . import archive, hub, store
from .errors import FetchError
from .scratch import scratch, sweep

_MARKER = ".loramux-fetched.json"
"""File in the directory that says what was fetched."""
_MODEL = "config.json"
_WEIGHTS = "*.safetensors"


def fetch(source: str, target: Path, revision: str = "", sha256: str = "") -> bool:
    """Bring a base to `target`; gives False where it is there already. Raises FetchError.

    Several may do it at once for one volume: the first that is done wins.
    """
    wanted = {"source": redact(source), "revision": revision, "sha256": sha256}
    try:
        sweep(target)
        if is_there(target, wanted):
            return False
        with scratch(target) as directory:
            _bring(source, directory, revision, sha256)
            _check(directory, wanted["source"])
            (directory / _MARKER).write_text(json.dumps(wanted))
            return _put(directory, target, wanted)
    except OSError as error:
        place = error.filename2 or error.filename or target
        raise FetchError(f"{error.strerror or error}: {place}") from error


def is_there(target: Path, wanted: dict[str, str]) -> bool:
    """Tell whether the directory has this base. Raises FetchError if it has another."""
    if not (target / _MODEL).is_file():
        return False
    found = _marked(target)
    if found != wanted:
        had = ", ".join(f"{key} {value}" for key, value in found.items() if value)
        raise FetchError(f"{target} has another base ({had}): fetch to another directory")
    return True


def _marked(target: Path) -> dict[str, Any]:
    """What a directory says of its base."""
    try:
        found = json.loads((target / _MARKER).read_bytes())
    except FileNotFoundError:
        raise FetchError(
            f"{target} has a base that was not fetched here: serve it without fetching, or fetch "
            "to another directory"
        ) from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FetchError(f"{target / _MARKER} is damaged: remove {target}, and fetch again")
    return found


def _bring(source: str, directory: Path, revision: str, sha256: str) -> None:
    """Fetch a source's files. Raises FetchError, whose message names no secret; OSError of the
    directory is one too."""
    scheme = _scheme(source)
    if revision and scheme != "hf":
        raise FetchError("a revision is for hf:// alone")
    if sha256 and scheme not in ("http", "https"):
        raise FetchError("a sha256 is for archives over http:// and https:// alone")
    try:
        if scheme == "hf":
            hub.fetch(source, directory, revision)
        elif scheme in ("http", "https"):
            archive.fetch(source, directory, sha256)
        else:
            store.fetch(source, directory)
        return
    except FetchError:
        raise
    except Exception as error:  # each library has its own
        reason = scrub(source, f"{type(error).__name__}: {error}")
    # Outside of the handler: a library's error may hold the whole URL, and would stay attached as
    # the context.
    raise FetchError(f"{redact(source)}: {reason}")


def _scheme(source: str) -> str:
    """Scheme of a source. Raises FetchError if it is none that can be split."""
    if any(not character.isprintable() or character.isspace() for character in source):
        # Not shown: it cannot be told where a secret in it ends.
        raise FetchError("a source is a URL, without blanks and control characters")
    try:
        parts = urlsplit(source)
    except ValueError:
        raise FetchError(f"{redact(source)} is no URL") from None
    return parts.scheme if "://" in source else ""


def _check(directory: Path, name: str) -> None:
    for pattern in (_MODEL, _WEIGHTS):
        if not any(directory.glob(pattern)):
            raise FetchError(f"{name} has no {pattern}: it is no base model")


def _put(directory: Path, target: Path, wanted: dict[str, str]) -> bool:
    """Give a directory its place, for good; False if another one was first."""
    for path in (*directory.iterdir(), directory):
        sync(path)
    try:
        directory.rename(target)
    except OSError:
        if not is_there(target, wanted):
            raise
        return False
    sync(target.parent)
    return True
