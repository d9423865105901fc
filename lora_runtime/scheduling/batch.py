"""The step's row plan: token ids, positions, KV block tables, adapter segments, as arrays kept
between steps."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..adapters.device import DeviceAdapter
from ..adapters.store.version import AdapterVersion
from ..requests.sequence import Sequence

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ScheduledRow:
    """`count` tokens of `sequence` from `sequence.num_computed` on run in this step."""

    sequence: Sequence
    count: int


class AdapterSegment(NamedTuple):
    """Rows `start:end` of the batch take `weight` times the adapter's update. Segments may overlap."""

    start: int
    end: int
    adapter: DeviceAdapter
    weight: float = 1.0


@dataclass(frozen=True)
class StepBatch:
    """A packed batch of T tokens of S sequences, no padding; rows of a sequence, and of an adapter,
    are neighbours.

    `tokens`, `positions`, `slots`: (T,), slot = block * block_size + offset is where the row's key
    and value go. Sequence i has rows `query_start[i]:query_start[i + 1]`, (S + 1,),
    `context_lengths[i]` tokens with the rows included, (S,), in the blocks `block_tables[i]`, (S,
    width), behind whose end the table holds zeros. `sampled_rows`: (N,) the last row of each of
    `sampling`'s N sequences. All int32.
    """

    tokens: Ints
    positions: Ints
    slots: Ints
    query_start: Ints
    context_lengths: Ints
    block_tables: Ints
    block_size: int
    sampled_rows: Ints
    segments: Seq[AdapterSegment]
    sampling: Seq[Sequence]
    distinct_adapters: int


@dataclass(frozen=True)
class StepOutput:
    """`logits`: (rows that sample, vocab + what adapters may add) float32, valid until the next
    step.

    Tokens that the row's adapters do not have are at -inf. `greedy`: each row's argmax.
    A row with NaN, or whose largest logit is not finite, has -1.
    """

    logits: torch.Tensor
    greedy: list[int]

    @classmethod
    def of(cls, logits: torch.Tensor) -> StepOutput:
        """With the argmax taken here."""
        logits = logits.float()
        return cls(
            logits, torch.where(logits.max(-1).values.isfinite(), logits.argmax(-1), -1).tolist()
        )


class BatchPlanner:
    """Lays out the scheduled rows; a batch of decode rows that goes on as it was is only advanced.

    Sequences are sorted by adapter version so that each version is one segment where its rows are
    neighbours. A StepBatch is valid until the next call: its arrays are reused.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._batch: StepBatch | None = None
        self._order: list[Sequence] = []
        self._segments: list[_VersionSegment] = []
        """Kept without weights, which leave with their slot; a preempted sequence finds them in
        another."""
        self._num_blocks: list[int] = []

    def forget(self) -> None:
        """Lay out the next batch anew: the last one was not computed."""
        self._batch, self._order = None, []

    def plan(self, rows: Seq[ScheduledRow]) -> StepBatch:
        rows = sorted(rows, key=lambda r: r.sequence.kv_version)
        order = [r.sequence for r in rows]
        decode = all(r.count == 1 for r in rows) and all(s.num_remaining == 1 for s in order)
        if decode and self._batch is not None and order == self._order:
            self._advance(self._batch)
        else:
            self._batch, self._segments = _lay_out(rows, self.block_size)
        # Only a pure decode batch can be advanced: its rows are its sequences.
        self._order = order if decode else []
        self._num_blocks = [len(s.blocks) for s in order] if decode else []
        return replace(self._batch, segments=[_placed(s) for s in self._segments])

    def _advance(self, batch: StepBatch) -> None:
        """Go one token further; of the arrays Python touches only the rows whose block is new."""
        batch.tokens[:] = [s.tokens[-1] for s in self._order]
        for counter in (batch.positions, batch.context_lengths):
            counter += 1
        if [len(s.blocks) for s in self._order] != self._num_blocks:
            widest = max(len(s.blocks) for s in self._order)
            if widest > batch.block_tables.shape[1]:
                self._batch = batch = _widened(batch, widest)
            for i, seq in enumerate(self._order):
                if len(seq.blocks) != self._num_blocks[i]:
                    batch.block_tables[i, : len(seq.blocks)] = seq.blocks
        last, offset = np.divmod(batch.positions, self.block_size)
        np.add(
            np.take_along_axis(batch.block_tables, last[:, None], 1)[:, 0] * self.block_size,
            offset,
            out=batch.slots,
            casting="same_kind",
        )


class _VersionSegment(NamedTuple):
    start: int
    end: int
    version: AdapterVersion
    weight: float


def _placed(segment: _VersionSegment) -> AdapterSegment:
    weights = segment.version.weights
    assert weights is not None, "a sequence runs without its slot"
    return AdapterSegment(segment.start, segment.end, weights, segment.weight)


def _lay_out(rows: Seq[ScheduledRow], block_size: int) -> tuple[StepBatch, list[_VersionSegment]]:
    """The batch without its segments, and these."""
    sequences = [r.sequence for r in rows]
    counts = np.array([r.count for r in rows], np.int32)
    computed = np.array([s.num_computed for s in sequences], np.int32)
    tables = np.zeros((len(rows), max(len(s.blocks) for s in sequences) + 1), np.int32)
    tokens: list[int] = []
    for i, row in enumerate(rows):
        seq = row.sequence
        tables[i, : len(seq.blocks)] = seq.blocks
        tokens += seq.tokens[seq.num_computed : seq.num_computed + row.count]
    batch = packed(np.array(tokens, np.int32), counts, computed + counts, tables, block_size)
    done = [
        i for i, r in enumerate(rows) if r.sequence.num_computed + r.count == len(r.sequence.tokens)
    ]
    segments = _segments(sequences, batch.query_start, computed)
    return replace(
        batch,
        sampled_rows=batch.sampled_rows[done],
        sampling=[sequences[i] for i in done],
        distinct_adapters=len({s.version for s in segments}),
    ), segments


def packed(tokens: Ints, counts: Ints, contexts: Ints, tables: Ints, block_size: int) -> StepBatch:
    """Sequence i's last `counts[i]` of `contexts[i]` positions, without adapters; all sequences
    sample.

    `tokens`: (T,); `counts`, `contexts`: (S,); `tables`: (S, width). All int32.
    """
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    owner = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    positions = np.arange(starts[-1], dtype=np.int32) + (contexts - counts - starts[:-1])[owner]
    block, offset = np.divmod(positions, np.int32(block_size))
    # With one index: with two NumPy lets go of the interpreter, and other threads take it.
    block += owner * np.int32(tables.shape[1])
    return StepBatch(
        tokens=tokens,
        positions=positions,
        slots=tables.ravel()[block] * np.int32(block_size) + offset,
        query_start=starts,
        context_lengths=contexts,
        block_tables=tables,
        block_size=block_size,
        sampled_rows=starts[1:] - np.int32(1),
        segments=(),
        sampling=(),
        distinct_adapters=0,
    )


def _segments(sequences: Seq[Sequence], starts: Ints, computed: Ints) -> list[_VersionSegment]:
    """Rows of one version and weight that are neighbours are one segment; sequences come sorted by
    version.

    Of the segments that cover a row, each comes after those of the adapters before it in the
    request, whatever the neighbours are: sums are taken in that order, and would differ in their
    last bits in another.
    """
    segments: list[_VersionSegment] = []
    open_ends: dict[tuple[str, float], int] = {}
    for i, seq in enumerate(sequences):
        before = -1
        for adapter in seq.adapters:
            # Rows before its first position are the base's.
            start = max(int(starts[i]), int(starts[i]) + adapter.start - int(computed[i]))
            end, key = int(starts[i + 1]), (adapter.version.version, adapter.weight)
            last = open_ends.get(key)
            if start >= end:
                continue
            if last is not None and last > before and segments[last].end == start:
                start, before = segments[last].start, last
                segments[last] = _VersionSegment(start, end, adapter.version, adapter.weight)
                continue
            before = open_ends[key] = len(segments)
            segments.append(_VersionSegment(start, end, adapter.version, adapter.weight))
    return segments


def _widened(batch: StepBatch, blocks: int) -> StepBatch:
    tables = np.zeros((batch.block_tables.shape[0], blocks + 8), np.int32)
    tables[:, : batch.block_tables.shape[1]] = batch.block_tables
    return replace(batch, block_tables=tables)
