"""Memory for weights and KV: contiguous in the order of use, in huge pages where the system gives
them.

Both matter at the memory's full speed: the processor prefetches within a stream, and every 4 KiB
page is a translation to look up.
"""

from __future__ import annotations

import ctypes
import mmap

import torch

ALIGN = 64
_MIN_CHUNK = 32 << 20


def give_back_freed() -> None:
    """Return what the C library keeps of freed memory to the system, where it can: glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Arena:
    """Hands out parts of a few large mappings; they are given back when no tensor uses them any
    more."""

    def __init__(self, num_bytes: int = 0) -> None:
        """`num_bytes`: what will be needed, if it is known."""
        self._chunk = zeroed(num_bytes) if num_bytes else torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """(count,) uninitialised, next to what was handed out before."""
        num_bytes = count * dtype.itemsize
        start = -(-self._used // ALIGN) * ALIGN
        if start + num_bytes > self._chunk.numel():
            self._chunk, start = zeroed(max(num_bytes, _MIN_CHUNK)), 0
        self._used = start + num_bytes
        return self._chunk[start : self._used].view(dtype)


def zeroed(num_bytes: int) -> torch.Tensor:
    """(num_bytes,) uint8 of zeros that take no memory before they are written."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
