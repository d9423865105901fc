"""Builds the C++ kernels for the processor at hand: once, cached by source, flags and target."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "csrc"
# What torch calls a processor's features, and the compiler's flags for it; the best that fits is
# taken.
TARGETS = {
    "avx512_bf16": (
        ("avx512_bf16", "avx512_vnni"),
        ("-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni"),
    ),
    "avx512": (("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq"), ("-march=x86-64-v4",)),
    "avx2": (("avx2", "fma3"), ("-march=x86-64-v3",)),
}
_MACHINES = ("x86_64", "AMD64")
# psabi, uninitialized: false alarms about vector arguments, and about GCC's own intrinsics.
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-mprefer-vector-width=512",
    "-fopenmp",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
)


class NoKernelsError(Exception):
    """Reason that the C++ kernels cannot be used here; the torch backend takes over."""


def host_target() -> str:
    """The best of TARGETS for this processor. Raises NoKernelsError."""
    if platform.machine() not in _MACHINES:
        raise NoKernelsError(f"no C++ kernels for {platform.machine()}")
    features = torch.cpu.get_capabilities()
    for name, (needed, _) in TARGETS.items():
        if all(features.get(f, False) for f in needed):
            return name
    raise NoKernelsError("the processor has no AVX2")


def library_path(target: str) -> Path:
    """The built library for `target`, building it first where it is missing. Raises NoKernelsError."""
    packaged = _packaged(target)
    if packaged.is_file():
        return packaged
    cached = _cache() / packaged.name
    return cached if cached.is_file() else build(target, cached)


def build(target: str, output: Path) -> Path:
    """Compile all of `csrc` into `output`. Raises NoKernelsError with the compiler's message."""
    compiler = _compiler()
    log.info("building the %s kernels once, with %s", target, compiler)
    started = time.monotonic()
    try:
        output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
            built = Path(scratch) / output.name
            _compile(compiler, target, built)
            built.replace(output)  # atomic: another process never loads half a file
    except OSError as error:
        raise NoKernelsError(
            f"the C++ kernels cannot be written to {output.parent}: {error.strerror}"
        ) from error
    log.info("built in %.0f s: %s", time.monotonic() - started, output)
    return output


def _compile(compiler: str, target: str, built: Path) -> None:
    """All sources, one compiler a core."""
    objects = {path: built.parent / f"{path.stem}.o" for path in sorted(SOURCES.glob("*.cpp"))}
    flags = [*_FLAGS, *TARGETS[target][1]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(
            pool.map(
                lambda item: _call([compiler, *flags, "-c", str(item[0]), "-o", str(item[1])]),
                objects.items(),
            )
        )
    _call([compiler, *flags, "-shared", *map(str, objects.values()), "-o", str(built)])


def _call(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise NoKernelsError(f"the C++ kernels do not build: {result.stderr.strip()[-2000:]}")


def _compiler() -> str:
    wanted = os.environ.get("CXX")
    found = shutil.which(wanted) if wanted else shutil.which("g++")
    if found is None:
        raise NoKernelsError(f"no C++ compiler ({wanted or 'g++'})")
    return found


def _packaged(target: str) -> Path:
    """The library's place in an image, which builds all targets once and needs no compiler later."""
    return SOURCES.parent / "lib" / f"loramux-{target}-{_digest(target)}.so"


def _cache() -> Path:
    root = os.environ.get("LORAMUX_KERNEL_CACHE")
    if root:
        return Path(root)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loramux"
    except RuntimeError as error:  # a user without a home
        raise NoKernelsError(
            f"no place for the C++ kernels: {error}; LORAMUX_KERNEL_CACHE names one"
        ) from error


def _digest(target: str) -> str:
    digest = hashlib.sha256(" ".join((*_FLAGS, *TARGETS[target][1])).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Build every target beside the sources: for images without a compiler."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for target in TARGETS if platform.machine() in _MACHINES else ():
        output = _packaged(target)
        output.parent.mkdir(exist_ok=True)  # for all users, where a cache is for its owner alone
        build(target, output)


if __name__ == "__main__":
    main()
