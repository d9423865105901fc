"""Drawing tokens: temperature and filters over rows of logits, and the draw itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SampleRow:
    """`logits`: (vocab,) float32; temperature > 0; `u` in [0, 1) is the draw. top_k 0, top_p 1,
    min_p 0 are off."""

    logits: torch.Tensor
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    u: float


def sample_rows_reference(rows: Sequence[SampleRow]) -> list[int]:
    """One token per row: the first up to which the probabilities sum to more than `u`.

    -1 for a row with NaN, or whose largest logit is not finite: it has no probabilities.
    """
    return [_sample_row(row) for row in rows]


def _sample_row(row: SampleRow) -> int:
    largest = row.logits.max()
    if not largest.isfinite():  # NaN anywhere is NaN here
        return -1
    scaled = (row.logits - largest) / max(row.temperature, 1e-30)
    filtered = filter_logits(scaled, row.top_k, row.top_p, row.min_p)
    mass = filtered.double().exp().cumsum(-1)  # the largest is 1
    index = int(torch.searchsorted(mass, row.u * mass[-1], right=True))
    return min(index, int(filtered.isfinite().nonzero()[-1]))


def filter_logits(row: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """Set logits (vocab,) outside top-k, then top-p, then min-p to -inf; the best token always
    stays.

    Tokens exactly as likely as the last one kept are kept too.
    """
    if 0 < top_k < row.shape[-1]:
        row = row.masked_fill(row < row.topk(top_k).values[-1], float("-inf"))
    if top_p < 1:
        ordered = row.sort(descending=True).values
        probs = ordered.double().softmax(-1)
        kept = int(
            (probs.cumsum(-1) - probs < top_p).sum()
        )  # the mass before a token does not suffice yet
        row = row.masked_fill(row < ordered[max(kept, 1) - 1], float("-inf"))
    if min_p > 0:
        probs = row.softmax(-1)
        row = row.masked_fill(probs < min_p * probs.max(), float("-inf"))
    return row
