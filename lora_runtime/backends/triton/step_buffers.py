"""Inputs and outputs of decode steps in memory that never moves, as a captured step needs it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from ...kernels.attention import AttentionPlan
from ...kernels.host_to_device import Packing
from ...scheduling.batch import StepBatch

_BETWEEN = 1 << 14
"""Values that cost less to copy along than another copy's start."""


class StepBuffers:
    """Room for `rows` decode rows with `width` KV blocks each.

    A step of n rows runs at a size of n or more: the rows behind n write to a scratch KV block that
    no sequence has, and see one position. The rows' inputs reach the device as one copy, and of the
    tables those that are not there yet: few, in a step that goes on where the last one was.
    `logits`: (rows, columns) float32, columns behind the base's vocabulary stay at -inf; `greedy`:
    (rows,) as StepOutput has it, -1 for a row with NaN or infinity.
    """

    def __init__(
        self,
        rows: int,
        width: int,
        block_size: int,
        scratch_block: int,
        columns: int,
        device: torch.device,
    ) -> None:
        self.rows, self.width, self.block_size = rows, width, block_size
        self.scratch_block = scratch_block
        pinned = device.type == "cuda"
        packing = Packing([*[((rows,), torch.int32)] * 4, ((rows, width), torch.int32)])
        self._head = packing.starts[-1] // 4
        """Values of 4 bytes in front of the tables."""
        staged = packing.staging(device).zero_()
        there = torch.zeros_like(staged, device=device)
        *self._staged, self._staged_tables = (view.numpy() for view in packing.views(staged))
        self.tokens, self.positions, self.slots, self.context_lengths, self.block_tables = (
            packing.views(there)
        )
        self._host, self._device = staged.view(torch.int32), there.view(torch.int32)
        self.query_start = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self.logits = torch.full((rows, columns), -torch.inf, device=device)
        self.greedy = torch.full((rows,), -1, device=device)
        self._greedy_host = torch.empty(rows, dtype=torch.int64, pin_memory=pinned)
        self._copied, self._read = (torch.cuda.Event() if pinned else None for _ in range(2))

    def takes(self, batch: StepBatch) -> bool:
        """True if the batch is of decode rows alone, each of which samples, and has room here."""
        count = len(batch.tokens)
        return (
            count == len(batch.context_lengths) == len(batch.sampled_rows)
            and count <= self.rows
            and (int(batch.context_lengths.max()) <= self.width * self.block_size)
        )

    def fill(self, batch: StepBatch, size: int) -> None:
        """Put a batch that `takes` accepted on the device, as `size` rows, without waiting."""
        self._begin()
        count = len(batch.tokens)
        inputs = (batch.tokens, batch.positions, batch.slots, batch.context_lengths)
        for staged, values in zip(self._staged, inputs, strict=True):
            staged[:count] = values
        tables = batch.block_tables[:, : self.width]
        # What a row's table had behind its blocks may stay: nothing reads behind the context's
        # length.
        staged = self._staged_tables[:count, : tables.shape[1]]
        changed = np.flatnonzero((staged != tables).any(1))
        staged[changed] = tables[changed]
        self._copy(count, size, changed)

    def fill_idle(self, size: int) -> None:
        """Fill `size` rows as `fill` does, with rows of no sequence."""
        self._begin()
        self._copy(0, size, np.arange(0))

    def _begin(self) -> None:
        if self._copied is not None:
            # The last copy has read the staging memory by now: its step was waited for.
            self._copied.synchronize()

    def _copy(self, count: int, size: int, changed: npt.NDArray[np.intp]) -> None:
        """Copy the staging memory.

        `changed`: of the first `count` rows, those with another table than the device has. Others
        than these never differ from the staging memory there.
        """
        idle = np.arange(size - count, dtype=np.int32) % self.block_size
        unused = (0, 0, self.scratch_block * self.block_size + idle, 1)
        for staged, values in zip(self._staged, unused, strict=True):
            staged[count:size] = values
        first_blocks = self._staged_tables[count:size, 0]
        idle_changed = count + np.flatnonzero(first_blocks != self.scratch_block)
        first_blocks[:] = self.scratch_block
        self._send(0, self._head)
        for first, end in _stretches(
            np.concatenate([changed, idle_changed]), _BETWEEN // self.width
        ):
            self._send(self._head + first * self.width, self._head + end * self.width)
        if self._copied is not None:
            self._copied.record()

    def _send(self, start: int, end: int) -> None:
        self._device[start:end].copy_(self._host[start:end], non_blocking=True)

    def attention_plan(self, size: int) -> AttentionPlan:
        """Attention plan of the first `size` rows."""
        return AttentionPlan(
            self.slots[:size],
            self.query_start[: size + 1],
            self.context_lengths[:size],
            self.block_tables[:size],
            self.block_size,
        )

    def store(self, logits: torch.Tensor, vocab: int) -> None:
        """Keep a step's logits (size, at least `vocab`) and take their argmax; captured too."""
        size = len(logits)
        own = self.logits[:size, :vocab]
        own.copy_(logits[:, :vocab])
        self.greedy[:size] = torch.where(own.max(-1).values.isfinite(), own.argmax(-1), -1)

    def read_greedy(self, count: int) -> list[int]:
        """Read the greedy tokens of `count` rows. Waits until the step is done."""
        host = self._greedy_host[:count]
        host.copy_(self.greedy[:count], non_blocking=True)
        if self._read is not None:
            self._read.record()
            self._read.synchronize()
        return host.tolist()


def _stretches(rows: npt.NDArray[np.intp], most_between: int) -> Iterator[tuple[int, int]]:
    """Stretches (first, behind the last) of the ascending `rows`; those with at most `most_between`
    between them as one."""
    if not len(rows):
        return
    cuts = np.flatnonzero(np.diff(rows) > most_between + 1)
    for first, last in zip([0, *(cuts + 1)], [*cuts, -1], strict=True):
        yield int(rows[first]), int(rows[last]) + 1
