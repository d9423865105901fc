"""Files that this process may not read, even if root runs the tests."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_VERSION = 0x20080522
_READS_ALL = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((f"{name}_{i}", ctypes.c_uint32) for i in range(2) for name in "epi")


@contextlib.contextmanager
def closed(path: Path, mode: int = 0) -> Iterator[None]:
    """Leave a file or directory no rights but `mode`, and this thread no right to pass over
    that."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with _unprivileged():
            yield
    finally:
        path.chmod(before)


@contextlib.contextmanager
def _unprivileged() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    libc, header, sets = ctypes.CDLL(None, use_errno=True), _Header(_VERSION, 0), _Sets()
    assert libc.capget(ctypes.byref(header), ctypes.byref(sets)) == 0
    effective = sets.e_0
    sets.e_0 = effective & ~_READS_ALL
    assert libc.capset(ctypes.byref(header), ctypes.byref(sets)) == 0
    try:
        yield
    finally:
        sets.e_0 = effective
        assert libc.capset(ctypes.byref(header), ctypes.byref(sets)) == 0
