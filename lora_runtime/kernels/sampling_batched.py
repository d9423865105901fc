"""Drawing tokens for many rows at once, on a device where every single read of a value costs a
wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .host_to_device import upload
from .sampling import SampleRow

GROUP_ROWS = 32
"""Rows drawn together: one needs about 30 bytes per token of the vocabulary while it is drawn."""
_FEW = 1024
"""The number of largest logits that are still found without a sort of all."""


def sample_rows_batched(rows: Sequence[SampleRow]) -> list[int]:
    """Draw what sample_rows_reference draws for each row; all rows have one vocabulary. Waits for
    the device once."""
    if not rows:
        return []
    vocab = len(rows[0].logits)
    # Rows that need a sort do not make the others be sorted.
    ranks = [_rank(row, vocab) if _filters(row, vocab) else 0 for row in rows]
    limits = (0, 0), (1, _FEW), (_FEW + 1, vocab)
    kinds = [[i for i, rank in enumerate(ranks) if low <= rank <= high] for low, high in limits]
    groups = [
        kind[at : at + GROUP_ROWS] for kind in kinds for at in range(0, len(kind), GROUP_ROWS)
    ]
    drawn = torch.cat([_draw([rows[i] for i in group]) for group in groups]).tolist()
    order = (i for group in groups for i in group)
    return [token for _, token in sorted(zip(order, drawn, strict=True))]


def _filters(row: SampleRow, vocab: int) -> bool:
    return row.top_p < 1 or 0 < row.top_k < vocab


def _rank(row: SampleRow, vocab: int) -> int:
    return row.top_k if 0 < row.top_k < vocab else vocab


def _draw(rows: Sequence[SampleRow]) -> torch.Tensor:
    """(rows,) tokens, on the device."""
    scaled = torch.stack([r.logits for r in rows])
    vocab, device = scaled.shape[1], scaled.device
    floats = torch.tensor(
        [[max(r.temperature, 1e-30), r.top_p, r.min_p, r.u] for r in rows], dtype=torch.float64
    )
    temperature, top_p, min_p, u = upload(floats, device).T[:, :, None]
    largest = scaled.amax(-1, keepdim=True)  # NaN where there is any
    scaled.sub_(largest).div_(temperature.float())
    if any(_filters(row, vocab) for row in rows):
        least = _least(scaled, [_rank(row, vocab) for row in rows], top_p)
        scaled.masked_fill_(scaled < least, -torch.inf)
    if any(r.min_p > 0 for r in rows):
        probs = scaled.softmax(-1)
        scaled.masked_fill_(
            (probs < min_p.float() * probs.amax(-1, keepdim=True)) & (min_p > 0), -torch.inf
        )
    mass = scaled.double().exp_().cumsum(-1)
    # Less than all of it, so that a token is found; but for NaN, whose row gets none.
    tokens = torch.searchsorted(mass, u * mass[:, -1:], right=True)
    return torch.where(largest.isfinite(), tokens, -1)[:, 0]


def _least(scaled: torch.Tensor, ranks: Sequence[int], top_p: torch.Tensor) -> torch.Tensor:
    """(rows, 1) below what top-k (`ranks`: the vocabulary's size if off) and then top-p drop a
    logit."""
    count = max(ranks)
    ordered = (scaled.topk(count) if count <= _FEW else scaled.sort(-1, descending=True)).values
    kth = ordered.gather(1, upload(torch.tensor(ranks), scaled.device)[:, None] - 1)
    weights = ordered.double().exp_().masked_fill_(ordered < kth, 0)
    mass = weights.cumsum(-1)
    # Tokens as likely as the last one count as well, also where they lie behind `count`.
    ties = (scaled == kth).sum(-1, keepdim=True) - (ordered == kth).sum(-1, keepdim=True)
    wanted = top_p * (mass[:, -1:] + ties * kth.double().exp())
    kept = (
        (mass - weights < wanted).sum(-1, keepdim=True).clamp(min=1)
    )  # the mass before a token does not suffice yet
    return torch.where(top_p < 1, torch.maximum(kth, ordered.gather(1, kept - 1)), kth)
