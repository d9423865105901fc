"""Cost of pinned host memory."""

from __future__ import annotations


def pinned_bytes(num_bytes: int) -> int:
    """Bytes that pinned memory of this size takes: torch's allocator rounds up to a power of two
    (pytorch/pytorch#150517)."""
    return 1 << (num_bytes - 1).bit_length() if num_bytes else 0
