"""The step's row plan as tensors: token ids, positions, KV slots, adapter segments."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from .kernels.attention import AttentionPlan, DecodeRows, PrefillChunk
from .kernels.lora import LoraSegment
from .scheduler import ScheduledRow
from .sequence import Sequence


@dataclass(frozen=True)
class StepBatch:
    """A packed batch of T tokens, no padding: rows of a sequence, and of an adapter, are neighbours.

    `token_ids`, `positions`: (T,). `logit_rows`: (N,) the last row of each of `sampling`'s N
    sequences. `lora`: module name → segments.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    attention: AttentionPlan
    lora: dict[str, list[LoraSegment]]
    logit_rows: torch.Tensor
    sampling: list[Sequence]
    distinct_adapters: int


def build_batch(rows: Seq[ScheduledRow], block_size: int, device: torch.device) -> StepBatch:
    """Lay out the scheduled rows. Sequences are sorted by adapter version so that each is one segment."""
    rows = sorted(rows, key=lambda r: r.sequence.version)
    tokens: list[int] = []
    positions: list[int] = []
    new_slots: list[int] = []
    prefill: list[PrefillChunk] = []
    decode: list[tuple[int, list[int]]] = []
    logit_rows: list[int] = []
    sampling: list[Sequence] = []
    spans: dict[str, tuple[Sequence, int, int]] = {}
    for row in rows:
        seq, start = row.sequence, len(tokens)
        end, context = start + row.count, seq.num_computed + row.count
        slots = _slots(seq.blocks, context, block_size)
        tokens += seq.tokens[seq.num_computed : context]
        positions += range(seq.num_computed, context)
        new_slots += slots[seq.num_computed :]
        if row.count == 1:
            decode.append((start, slots))
        else:
            prefill.append(PrefillChunk(start, end, torch.tensor(slots, device=device)))
        if context == len(seq.tokens):
            logit_rows.append(end - 1)
            sampling.append(seq)
        if seq.adapter is not None:
            spans[seq.version] = (seq, spans.get(seq.version, (seq, start, end))[1], end)
    return StepBatch(
        token_ids=torch.tensor(tokens, device=device),
        positions=torch.tensor(positions, device=device),
        attention=AttentionPlan(torch.tensor(new_slots, device=device), prefill, _decode_rows(decode, device)),
        lora=_lora_segments(list(spans.values())),
        logit_rows=torch.tensor(logit_rows, dtype=torch.long, device=device),
        sampling=sampling,
        distinct_adapters=len(spans),
    )


def _slots(blocks: list[int], length: int, block_size: int) -> list[int]:
    slots = [b * block_size + o for b in blocks[: -(-length // block_size)] for o in range(block_size)]
    return slots[:length]


def _decode_rows(decode: list[tuple[int, list[int]]], device: torch.device) -> DecodeRows | None:
    if not decode:
        return None
    lengths = [len(slots) for _, slots in decode]
    longest = max(lengths)
    return DecodeRows(
        rows=torch.tensor([row for row, _ in decode], device=device),
        kv_slots=torch.tensor([s + s[:1] * (longest - len(s)) for _, s in decode], device=device),
        lengths=torch.tensor(lengths, device=device),
    )


def _lora_segments(spans: list[tuple[Sequence, int, int]]) -> dict[str, list[LoraSegment]]:
    lora: dict[str, list[LoraSegment]] = {}
    for seq, start, end in spans:
        assert seq.adapter is not None
        for name, w in seq.adapter.weights.items():
            lora.setdefault(name, []).append(LoraSegment(start, end, w.a, w.b, w.scaling))
    return lora
