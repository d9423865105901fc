"""Memory for weights: contiguous in the order of their use, in huge pages where the system gives them.

Both matter at the memory's full speed: the processor prefetches within a stream, and every 4 KiB page is a
translation to look up.
"""

from __future__ import annotations

import mmap

import torch

_ALIGN = 64
_MIN_CHUNK = 32 << 20


class Arena:
    """Hands out parts of a few large mappings; they are given back when no tensor uses them any more."""

    def __init__(self, num_bytes: int = 0) -> None:
        """`num_bytes`: what will be needed, if it is known."""
        self._chunk = _map(num_bytes) if num_bytes else torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """(count,) uninitialised, next to what was handed out before."""
        num_bytes = count * dtype.itemsize
        start = -(-self._used // _ALIGN) * _ALIGN
        if start + num_bytes > self._chunk.numel():
            self._chunk, start = _map(max(num_bytes, _MIN_CHUNK)), 0
        self._used = start + num_bytes
        return self._chunk[start : self._used].view(dtype)

    @staticmethod
    def size_of(*num_bytes: int) -> int:
        """Bytes that parts of these sizes take together."""
        return sum(-(-n // _ALIGN) * _ALIGN for n in num_bytes)


def _map(num_bytes: int) -> torch.Tensor:
    memory = mmap.mmap(-1, num_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
