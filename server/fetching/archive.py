"""A base from a tar archive over HTTP, with the checksum that it must have."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import urllib.request
from pathlib import Path

from lora_runtime import redact

from .errors import FetchError

AUTHORIZATION = "LORAMUX_FETCH_AUTHORIZATION"
"""Variable with the value of the request's Authorization header."""
_TIMEOUT_S = 60
_CHUNK = 1 << 20


def fetch(source: str, directory: Path, sha256: str) -> None:
    """Download, compare, unpack: a folder that holds all the rest is left out. Raises FetchError."""
    if not sha256:
        raise FetchError("an archive over HTTP needs its sha256")
    file = directory / "archive.download"
    try:
        found = _download(source, file)
    except (OSError, ValueError) as error:  # a URL that is none is the latter
        raise FetchError(redact(f"{source}: {error}")) from error
    if found != sha256.lower():
        raise FetchError(redact(f"{source}: its sha256 is {found}, not {sha256}"))
    unpacked = directory / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a try before
    try:
        with tarfile.open(file) as archive:
            archive.extractall(unpacked, filter="data")
    except tarfile.TarError as error:
        raise FetchError(redact(f"{source}: {error}")) from error
    file.unlink()
    _lift(unpacked, directory)


def _download(source: str, file: Path) -> str:
    """Write the answer to a file; gives its sha256."""
    request = urllib.request.Request(source)
    if value := os.environ.get(AUTHORIZATION):
        # Not to where a redirect leads.
        request.add_unredirected_header("Authorization", value)
    digest = hashlib.sha256()
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer, file.open("wb") as out:
        while chunk := answer.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def _lift(unpacked: Path, directory: Path) -> None:
    """Move what was unpacked up, out of the only folder that it is in."""
    inner = list(unpacked.iterdir())
    top = inner[0] if len(inner) == 1 and inner[0].is_dir() else unpacked
    for path in top.iterdir():
        path.rename(directory / path.name)
    shutil.rmtree(unpacked)
