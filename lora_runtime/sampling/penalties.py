"""Repetition, presence and frequency penalties, for all rows of a step at once."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch

from ..api.requests import SamplingParams
from ..kernels.host_to_device import upload
from ..requests.sequence import TokenCounts


def has_penalties(p: SamplingParams) -> bool:
    return p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0


def apply_penalties(
    logits: torch.Tensor, counts: Seq[TokenCounts], params: Seq[SamplingParams]
) -> None:
    """Penalise rows (rows, vocab) float32 in place, as apply_penalties_reference does one; the host
    does not wait."""
    ids, times = (upload(torch.from_numpy(a), logits.device) for a in _padded(counts))
    factors = torch.tensor(
        [[p.repetition_penalty, p.presence_penalty, p.frequency_penalty] for p in params],
        dtype=torch.float32,
    )
    repetition, presence, frequency = upload(factors, logits.device).T[:, :, None]
    values = logits.gather(1, ids)
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= torch.where(times > 0, presence + frequency * times, 0)
    logits.scatter_(1, ids, values)


def _padded(counts: Seq[TokenCounts]) -> tuple[np.ndarray, np.ndarray]:
    """(rows, most tokens) ids and counts. A shorter row has its first token again, which writes the
    same twice."""
    width = max(len(c.ids) for c in counts)
    ids, times = np.empty((len(counts), width), np.int64), np.empty((len(counts), width), np.int32)
    for row, c in enumerate(counts):
        length = len(c.ids)
        ids[row, :length], ids[row, length:] = c.ids, c.ids[0]
        times[row, :length], times[row, length:] = c.counts, c.counts[0]
    return ids, times


def apply_penalties_reference(
    row: torch.Tensor, tokens: Seq[int], num_prompt: int, p: SamplingParams
) -> torch.Tensor:
    """Penalise one row (vocab,); a new tensor."""
    row = row.clone()
    if p.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(tokens)), device=row.device)
        values = row[seen]
        row[seen] = torch.where(
            values > 0, values / p.repetition_penalty, values * p.repetition_penalty
        )
    generated = tokens[num_prompt:]
    if generated:
        ids, counts = torch.tensor(generated, device=row.device).unique(return_counts=True)
        row[ids] -= p.presence_penalty + p.frequency_penalty * counts.to(row.dtype)
    return row
