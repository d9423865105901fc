"""A base from a tar archive over HTTP, with the checksum that it must have."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import urllib.request
from pathlib import Path, PurePosixPath

from lora_runtime import redact

from .errors import FetchError

AUTHORIZATION = "LORAMUX_FETCH_AUTHORIZATION"
"""Variable with the value of the request's Authorization header."""
_CONFIG = "config.json"
_TIMEOUT_S = 60
_CHUNK = 1 << 20


def fetch(source: str, directory: Path, sha256: str) -> None:
    """Download, compare, unpack the folder that has the config. Raises FetchError."""
    if not sha256:
        raise FetchError("an archive over HTTP needs its sha256")
    file = directory / "archive.download"
    try:
        found = _download(source, file)
    except (OSError, ValueError) as error:  # a URL that is none is the latter
        raise FetchError(redact(f"{source}: {error}")) from error
    if found != sha256.lower():
        raise FetchError(redact(f"{source}: its sha256 is {found}, not {sha256}"))
    try:
        with tarfile.open(file) as archive:
            _unpack(archive, directory)
    except tarfile.TarError as error:
        raise FetchError(redact(f"{source}: {error}")) from error
    file.unlink()


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


def _unpack(archive: tarfile.TarFile, directory: Path) -> None:
    """Write the files beside the config, by their bare names: none gets out of the directory."""
    files = [member for member in archive if member.isfile()]
    configs = [PurePosixPath(f.name) for f in files if PurePosixPath(f.name).name == _CONFIG]
    top = min((path.parent for path in configs), key=lambda path: len(path.parts), default=None)
    for member in files:
        path = PurePosixPath(member.name)
        content = archive.extractfile(member)
        if path.parent == top and content is not None:
            with content, (directory / path.name).open("wb") as out:
                shutil.copyfileobj(content, out, _CHUNK)
