"""A base from a store that fsspec reads: s3://, gs://, az:// and others, with their own variables."""

from __future__ import annotations

from pathlib import Path

import fsspec.core

from lora_runtime import redact

from .errors import FetchError


def fetch(source: str, directory: Path) -> None:
    """Download the files that lie in a folder itself. Raises FetchError, and what each store has for
    errors."""
    try:
        files, root = fsspec.core.url_to_fs(source)
    except ImportError as error:  # such as "Install s3fs to access S3"
        raise FetchError(f"{redact(source)}: {error}: pip install 'loramux[sources]'") from None
    for found in files.ls(root, detail=True):
        if found["type"] == "file":
            name = found["name"].rstrip("/").rpartition("/")[2]
            files.get_file(found["name"], str(directory / name))
