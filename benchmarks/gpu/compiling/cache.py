"""Triton's cache as one file, so that what was compiled on a machine that is gone is there again."""

from __future__ import annotations

import json
import lzma
import shutil
import tarfile
import tempfile
from pathlib import Path

NAME = "triton-cache.tar.xz"
MOST_BYTES = 16 << 20
"""Of a file that comes back from a borrowed machine."""
_BEHIND = 2 << 20
"""Bytes that the compressor may hold back, and those of the last kernel."""
_KEPT = {".json", ".cubin", ".ptx", ".so"}
"""What a launch needs, and the PTX, which tells what it does; the compiler's own steps are most of
a cache."""


def pack(cache: Path, target: Path, most: int = MOST_BYTES) -> int:
    """Write `cache` to `target`; the bytes that it took. Kernels that were compiled first come
    first: where there are more than fit into `most`, the last are left out."""
    kernels = sorted(
        (path for path in cache.glob("*") if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    scratch = target.with_name(f".{target.name}")
    with (
        scratch.open("wb") as written,
        lzma.open(written, "w", preset=1) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for number, kernel in enumerate(kernels):
            if written.tell() > most - _BEHIND:
                print(
                    f"{len(kernels) - number} of {len(kernels)} entries of Triton's cache are left out"
                )
                break
            for path in sorted(p for p in kernel.iterdir() if p.suffix in _KEPT):
                archive.add(path, path.relative_to(cache))
    scratch.replace(target)
    return target.stat().st_size


def unpack(source: Path, cache: Path) -> int:
    """Add what `source` holds to `cache`; how many kernels that are. Triton's lists of a kernel's
    files have whole paths, of the machine that wrote them: they are written anew."""
    kernels = 0
    with tempfile.TemporaryDirectory(dir=cache.parent) as scratch, tarfile.open(source) as archive:
        archive.extractall(scratch, filter="data")  # whole, or nothing of it is taken
        for group in Path(scratch).glob("*/__grp__*"):
            _move(group, cache / group.parent.name)
            kernels += 1
        shutil.copytree(scratch, cache, dirs_exist_ok=True)
    return kernels


def _move(group: Path, target: Path) -> None:
    listed = json.loads(group.read_text())
    listed["child_paths"] = {name: str(target / name) for name in listed["child_paths"]}
    group.write_text(json.dumps(listed))
