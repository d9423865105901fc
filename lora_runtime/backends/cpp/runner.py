"""Runner of the C++ backend: a step's batch as one call of its program."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from ...kernels.cpu.adapter import CpuAdapter
from ...kernels.cpu.library import SLACK_BYTES, TILE, Segment, Step
from ...kernels.cpu.memory import zeroed
from ...kernels.cpu.program import Program
from ...scheduling.batch import StepBatch, StepOutput


class CppRunner:
    """Owner of the KV cache and the step's buffers. Used by the engine thread only."""

    def __init__(
        self,
        program: Program,
        shapes: Sequence[tuple[int, int, int]],
        num_blocks: int,
        block_size: int,
        width: int,
        lock: AbstractContextManager[Any],
    ) -> None:
        """Make the cache and the buffers.

        `shapes`: (kv_heads, key dim, value dim) per layer; `width`: of the logits; `lock` is held
        during a run. Raises ValueError for a block size that is no multiple of TILE.
        """
        if block_size % TILE:
            raise ValueError(
                f"kv_block_size must be a multiple of {TILE} for the C++ kernels, got {block_size}"
            )
        self.program, self._lock = program, lock
        slots = num_blocks * block_size
        self._cache = (
            [_slots(slots * heads * dim, program.dtype) for heads, dim, _ in shapes],
            [_slots(slots * heads * dim_v, program.dtype) for heads, _, dim_v in shapes],
        )
        self._keys, self._values = (_pointers(tensors) for tensors in self._cache)
        self._logits = torch.empty(0, width)
        self._greedy = np.empty(0, np.int32)

    def forward(self, batch: StepBatch) -> StepOutput:
        sampled = len(batch.sampled_rows)
        if sampled > len(self._greedy):
            self._logits = torch.empty(sampled, self._logits.shape[1])
            self._greedy = np.empty(sampled, np.int32)
        segments = _segments(batch)
        step = Step(
            rows=len(batch.tokens),
            sequences=len(batch.context_lengths),
            segments=len(segments),
            sampled=sampled,
            tokens=batch.tokens.ctypes.data,
            positions=batch.positions.ctypes.data,
            slots=batch.slots.ctypes.data,
            query_start=batch.query_start.ctypes.data,
            context_lengths=batch.context_lengths.ctypes.data,
            block_tables=batch.block_tables.ctypes.data,
            table_width=batch.block_tables.shape[1],
            block_size=batch.block_size,
            segment=ctypes.addressof(segments),
            sampled_rows=batch.sampled_rows.ctypes.data,
            keys=ctypes.addressof(self._keys),
            values=ctypes.addressof(self._values),
            logits=self._logits.data_ptr(),
            greedy=self._greedy.ctypes.data,
            threads=torch.get_num_threads(),
        )
        with self._lock:
            self.program.run(step)
        return StepOutput(self._logits[:sampled], self._greedy[:sampled].tolist())


def _segments(batch: StepBatch) -> Any:
    out = (Segment * len(batch.segments))()
    for c, segment in zip(out, batch.segments, strict=True):
        assert isinstance(segment.adapter, CpuAdapter)
        c.table, c.kinds = segment.adapter.address, segment.adapter.kinds
        c.start, c.end, c.weight = segment.start, segment.end, segment.weight
    return out


def _slots(values: int, dtype: torch.dtype) -> torch.Tensor:
    return zeroed(values * dtype.itemsize + SLACK_BYTES).view(dtype)


def _pointers(tensors: list[torch.Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
