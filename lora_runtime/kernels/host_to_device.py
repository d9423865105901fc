"""Copies from host to device in the middle of a step: what belongs together as one, and the host
waits for none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch

_ALIGNED = 128
"""Bytes: a GPU reads whole lines of so many, and kernels are compiled for how their arguments are
aligned, which should be alike in every step."""
Part = tuple[tuple[int, ...], torch.dtype]


class Packing:
    """Arrays of certain shapes and dtypes in one buffer of bytes: each begins a line."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in self._parts]
        lines = (-(-size // _ALIGNED) * _ALIGNED for size in self._sizes)
        *self.starts, self.num_bytes = accumulate(lines, initial=0)
        """Bytes: where each part begins, and the buffer's size."""

    def views(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """The arrays in `packed`, (num_bytes,) uint8, wherever it is."""
        places = zip(self._parts, self.starts, self._sizes, strict=True)
        return [
            packed[start : start + size].view(dtype).view(shape)
            for (shape, dtype), start, size in places
        ]

    def staging(self, device: torch.device) -> torch.Tensor:
        """A buffer on the host, not cleared, that `device` copies from without the host's help.

        torch does not give its memory to anyone else before such a copy is done.
        """
        return torch.empty(self.num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same on `device`, enqueued behind what is there."""
    if device.type == "cuda":
        values = values.pin_memory()  # which torch keeps for the copy, as a staging buffer
    return values.to(device, non_blocking=True)


def upload_packed(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """int32 arrays as tensors of the same shapes on `device`, by one copy."""
    packing = Packing([(array.shape, torch.int32) for array in arrays])
    staged = packing.staging(device)
    values = staged.numpy()
    for start, array in zip(packing.starts, arrays, strict=True):
        values[start : start + 4 * array.size] = np.asarray(array, np.int32).ravel().view(np.uint8)
    return packing.views(upload(staged, device))
