"""Bases to fetch, and what has been fetched."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Literal

SUM = {"sha256": "0" * 64}
BASE = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}"}


def packed(
    files: dict[str, bytes], folder: str = "", mode: Literal["w:gz", "w:xz"] = "w:gz"
) -> tuple[bytes, str]:
    """An archive and its sha256."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue(), hashlib.sha256(out.getvalue()).hexdigest()


def held(directory: Path) -> dict[str, bytes]:
    """Files of the base, and that there is nothing else beside it."""
    assert list(directory.parent.iterdir()) == [directory]
    return {p.name: p.read_bytes() for p in directory.iterdir() if not p.name.startswith(".")}
