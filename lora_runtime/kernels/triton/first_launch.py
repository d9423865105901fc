"""Whether Triton can launch anything here: its first launch compiles C, which a machine may not be
set up for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import torch
import triton
from triton import language as tl

from ...errors import BaseModelError


def check_launch(device: torch.device) -> None:
    """Launch a kernel that does next to nothing. Raises BaseModelError that says what is missing
    for it."""
    try:
        if device.type == "cuda":
            with torch.cuda.device(device):
                wrong = _launch(device)
        else:
            wrong = _launch(device)
    except (
        Exception
    ) as error:  # of the compiler that it calls, of the file system, of the driver: all kinds
        missing = "; ".join([*_missing(error), f"{type(error).__name__}: {error}"])
        raise BaseModelError(
            f"Triton cannot launch kernels on {device} (kernels torch needs none): {missing}"
        ) from error
    if wrong:
        raise BaseModelError(
            f"Triton's kernels do not run on {device}: the first one wrote nothing"
        )


def _launch(device: torch.device) -> bool:
    value = torch.zeros(1, dtype=torch.int32, device=device)
    _one_kernel[(1,)](value)
    return value.item() != 1


@triton.jit
def _one_kernel(out):
    tl.store(out, 1)


def _missing(error: Exception) -> list[str]:
    """What a container often lacks."""
    compiler, cache = triton.knobs.build.cc, Path(triton.knobs.cache.dir)
    names = [compiler] if compiler else ["gcc", "clang"]
    found = []
    if not any(map(shutil.which, names)):
        found.append(
            f"it needs a C compiler and there is no {' or '.join(names)} (install gcc and libc6-dev)"
        )
    elif isinstance(error, subprocess.CalledProcessError):
        found.append("its C compiler failed, which needs the headers of libc6-dev and of Python")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        writable = os.access(cache, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        found.append(
            f"its cache directory {cache} cannot be written (set TRITON_CACHE_DIR to one that can)"
        )
    return found
