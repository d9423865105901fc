"""How torch says that memory is short."""

from __future__ import annotations

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError, and the RuntimeErrors of the CPU's allocator and of CUDA's libraries."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)
    )


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
