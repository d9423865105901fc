"""Inputs of decode steps on the device: always as the batch has them, copied as far as they
changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lora_runtime.backends.triton import step_buffers
from lora_runtime.backends.triton.step_buffers import StepBuffers
from lora_runtime.scheduling.batch import StepBatch

ROWS, WIDTH, BLOCK, SCRATCH = 8, 6, 4, 99
HEAD = 4 * 32


def batch(tables: np.ndarray, contexts: np.ndarray) -> StepBatch:
    rows = np.arange(len(contexts), dtype=np.int32)
    positions = (contexts - 1).astype(np.int32)
    return StepBatch(
        tokens=rows + 50,
        positions=positions,
        slots=tables[rows, positions // BLOCK] * BLOCK + positions % BLOCK,
        query_start=np.arange(len(rows) + 1, dtype=np.int32),
        context_lengths=contexts.astype(np.int32),
        block_tables=tables,
        block_size=BLOCK,
        sampled_rows=rows,
        segments=(),
        sampling=(),
        distinct_adapters=0,
    )


class Recorded(StepBuffers):
    """`sent`: (first, behind the last) of the values that were copied."""

    def __init__(self) -> None:
        super().__init__(ROWS, WIDTH, BLOCK, SCRATCH, 10, torch.device("cpu"))
        self.sent: list[tuple[int, int]] = []

    def _send(self, start: int, end: int) -> None:
        self.sent.append((start, end))
        super()._send(start, end)

    def filled(self, of: StepBatch, size: int) -> list[tuple[int, int]]:
        """Rows of the table that were copied; checks all that a step reads."""
        self.sent.clear()
        self.fill(of, size)
        count = len(of.tokens)
        for name in ("tokens", "positions", "slots", "context_lengths"):
            assert getattr(self, name)[:count].tolist() == getattr(of, name).tolist()
        for table, expected, context in zip(
            self.block_tables, of.block_tables, of.context_lengths, strict=False
        ):
            used = -(-int(context) // BLOCK)
            assert table[:used].tolist() == expected[:used].tolist()
        assert self.block_tables[count:size, 0].tolist() == [SCRATCH] * (size - count)
        assert self.context_lengths[count:size].tolist() == [1] * (size - count)
        assert (self.slots[count:size] // BLOCK == SCRATCH).all()
        assert self.sent[0] == (0, HEAD)
        return [((start - HEAD) // WIDTH, (end - HEAD) // WIDTH) for start, end in self.sent[1:]]


def test_only_rows_with_another_table_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_buffers, "_BETWEEN", WIDTH)  # one row
    buffers = Recorded()
    tables, contexts = np.arange(1, 31, dtype=np.int32).reshape(5, 6)[:, :3].copy(), np.full(5, 9)
    assert buffers.filled(batch(tables, contexts), 8) == [(0, 8)]
    assert buffers.filled(batch(tables, contexts + 1), 8) == []  # a plain advance
    tables[[0, 3, 4], 2] += 100
    assert buffers.filled(batch(tables, contexts), 8) == [(0, 1), (3, 5)]
    tables[[0, 2], 2] += 100
    assert buffers.filled(batch(tables, contexts), 8) == [
        (0, 3)
    ]  # one between them is cheaper than another copy
    assert buffers.filled(batch(tables[:3], contexts[:3]), 4) == [
        (3, 4)
    ]  # the fourth has no sequence now
    assert buffers.filled(batch(tables, contexts), 8) == [(3, 4)]
    assert buffers.filled(batch(tables[::-1].copy(), contexts), 8) == [(0, 5)]


@pytest.mark.parametrize("seed", range(20))
def test_any_steps_in_a_row(seed: int) -> None:
    """Sequences come, grow and go; tables are as wide as a batch needs, even wider than the
    buffers."""
    rng = np.random.default_rng(seed)
    buffers = Recorded()
    for _ in range(30):
        count = int(rng.integers(1, ROWS + 1))
        contexts = rng.integers(1, WIDTH * BLOCK + 1, count)
        tables = np.zeros(
            (count, max(-(-int(contexts.max()) // BLOCK), int(rng.integers(1, WIDTH + 3)))),
            np.int32,
        )
        tables[:] = rng.integers(0, 5, tables.shape)
        for _ in range(int(rng.integers(1, 4))):
            buffers.filled(batch(tables, contexts), int(rng.integers(count, ROWS + 1)))
            tables[int(rng.integers(count)), 0] += 1
        if rng.integers(3) == 0:
            buffers.fill_idle(ROWS)
            assert (buffers.block_tables[:, 0] == SCRATCH).all()
