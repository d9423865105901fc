"""A base from a tar archive over HTTP, with the checksum that it must have."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from lora_runtime import redact

from ..tls import is_loopback
from .download import CHUNK, Download, opened
from .errors import FetchError

AUTHORIZATION = "LORAMUX_FETCH_AUTHORIZATION"
"""Variable with the value of the request's Authorization header, which goes out over TLS alone, or to
this machine."""
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_CONFIG = "config.json"


def fetch(source: str, directory: Path, sha256: str) -> None:
    """Download, compare, unpack the folder that has the config.

    Raises FetchError, and what urllib and tarfile have for errors.
    """
    if not sha256:
        raise FetchError("an archive over HTTP needs its sha256")
    if not _SHA256.fullmatch(sha256):
        raise FetchError(f"{sha256!r} is no sha256, which has 64 hexadecimal digits")
    request = _request(source)
    with tempfile.TemporaryFile(dir=directory) as file:
        with opened(request) as answer:
            free = shutil.disk_usage(directory).free
            shutil.copyfileobj(Download(redact(source), answer, free), file, CHUNK)
        # Of what is on the disk: that is unpacked.
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise FetchError(f"{redact(source)}: its sha256 is {found}, not {sha256}")
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            _unpack(archive, directory)


def _request(source: str) -> urllib.request.Request:
    """Make the request. Raises FetchError where a secret would be seen."""
    parts = urlsplit(source)
    if "@" in parts.netloc:
        raise FetchError(f"{redact(source)}: a user and a password belong into {AUTHORIZATION}")
    request = urllib.request.Request(source)
    if value := os.environ.get(AUTHORIZATION, "").strip():
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise FetchError(
                f"{redact(source)}: {AUTHORIZATION} is refused over http:// but to this machine"
            )
        if not value.isprintable():  # the library would show it
            raise FetchError(f"{AUTHORIZATION} must be one line of visible characters")
        # Not to where a redirect leads.
        request.add_unredirected_header("Authorization", value)
    return request


def _unpack(archive: tarfile.TarFile, directory: Path) -> None:
    """Write the files beside the config, by their bare names: none gets out of the directory."""
    files = [member for member in archive if member.isfile()]
    for member in files:
        if member.issparse():  # a few bytes of it become any number
            raise FetchError(f"{member.name!r} in the archive is a sparse file: pack it whole")
    configs = [PurePosixPath(f.name) for f in files if PurePosixPath(f.name).name == _CONFIG]
    top = min((path.parent for path in configs), key=lambda path: len(path.parts), default=None)
    for member in files:
        path = PurePosixPath(member.name)
        content = archive.extractfile(member)
        if path.parent == top and content is not None:
            with content, (directory / path.name).open("wb") as out:
                shutil.copyfileobj(content, out, CHUNK)
