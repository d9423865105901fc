"""A base in a directory: whole or not at all, and known again at the next start."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

from lora_runtime import redact

from . import archive, hub, store
from .errors import FetchError

_MARKER = ".loramux-fetched.json"
"""File in the directory that says what was fetched."""
_MODEL = "config.json"
_WEIGHTS = "*.safetensors"


def fetch(source: str, target: Path, revision: str = "", sha256: str = "") -> bool:
    """Bring a base to `target`; gives False where it is there already. Raises FetchError.

    Several may do it at once for one volume: the first that is done wins.
    """
    wanted = {"source": redact(source), "revision": revision, "sha256": sha256}
    if is_there(target, wanted):
        return False
    # A restarted container of a pod goes on where it was.
    scratch = target.parent / f".{target.name}.{socket.gethostname()}"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        _bring(source, scratch, revision, sha256)
        _check(scratch, wanted["source"])
        (scratch / _MARKER).write_text(json.dumps(wanted))
        return _put(scratch, target, wanted)
    except OSError as error:
        raise FetchError(
            redact(f"{error.strerror or error}: {error.filename or target}")
        ) from error


def is_there(target: Path, wanted: dict[str, str]) -> bool:
    """Tell whether the directory has this base. Raises FetchError if it has another."""
    if not (target / _MODEL).is_file():
        return False
    try:
        found = json.loads((target / _MARKER).read_text())
    except FileNotFoundError:
        raise FetchError(
            f"{target} has a base that was not fetched here: serve it without fetching, or fetch "
            "to another directory"
        ) from None
    if found != wanted:
        had = ", ".join(f"{key} {value}" for key, value in found.items() if value)
        raise FetchError(f"{target} has another base ({had}): fetch to another directory")
    return True


def _bring(source: str, scratch: Path, revision: str, sha256: str) -> None:
    scheme = source.partition("://")[0]
    if revision and scheme != "hf":
        raise FetchError("a revision is for hf:// alone")
    if sha256 and scheme not in ("http", "https"):
        raise FetchError("a sha256 is for archives over http:// and https:// alone")
    if scheme == "hf":
        hub.fetch(source, scratch, revision)
    elif scheme in ("http", "https"):
        archive.fetch(source, scratch, sha256)
    else:
        store.fetch(source, scratch)


def _check(scratch: Path, name: str) -> None:
    for pattern in (_MODEL, _WEIGHTS):
        if not any(scratch.glob(pattern)):
            raise FetchError(f"{name} has no {pattern}: it is no base model")


def _put(scratch: Path, target: Path, wanted: dict[str, str]) -> bool:
    try:
        scratch.rename(target)
    except OSError:
        if not is_there(target, wanted):
            raise
        shutil.rmtree(scratch)  # another one was first
        return False
    return True
