"""What pinned host memory costs."""

from __future__ import annotations


def pinned_bytes(num_bytes: int) -> int:
    """What pinned memory of that size takes: torch's allocator rounds up to a power of two (pytorch/pytorch#150517)."""
    return 1 << (num_bytes - 1).bit_length() if num_bytes else 0
