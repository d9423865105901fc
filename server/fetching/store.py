"""A base from a store that fsspec reads: s3://, gs://, az:// and others, with their own variables."""

from __future__ import annotations

from pathlib import Path

import fsspec.core


def fetch(source: str, directory: Path) -> None:
    """Download the files that lie in a folder itself. Raises what each store has for errors."""
    files, root = fsspec.core.url_to_fs(source)
    for found in files.ls(root, detail=True):
        if found["type"] == "file":
            name = found["name"].rstrip("/").rpartition("/")[2]
            files.get_file(found["name"], str(directory / name))
