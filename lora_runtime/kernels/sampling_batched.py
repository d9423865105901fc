"""Drawing tokens for many rows at once, on a device where every single read of a value costs a wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .sampling import SampleRow


def sample_rows_batched(rows: Sequence[SampleRow]) -> list[int]:
    """As sample_rows_reference, row by row the same; all rows have one vocabulary. Waits for the device once."""
    if not rows:
        return []
    logits = torch.stack([r.logits for r in rows])
    floats = [[max(r.temperature, 1e-30), r.top_p, r.min_p, r.u] for r in rows]
    temperature, top_p, min_p, u = torch.tensor(floats, dtype=torch.float64, device=logits.device).T[:, :, None]
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature.float()
    if any(r.top_p < 1 or 0 < r.top_k < logits.shape[1] for r in rows):
        scaled = _without_tail(scaled, rows, top_p)
    if any(r.min_p > 0 for r in rows):
        probs = scaled.softmax(-1)
        scaled = scaled.masked_fill((probs < min_p.float() * probs.amax(-1, keepdim=True)) & (min_p > 0), -torch.inf)
    mass = scaled.double().softmax(-1).cumsum(-1)
    index = torch.searchsorted(mass, u * mass[:, -1:], right=True)
    places = torch.arange(logits.shape[1], device=logits.device)
    last = torch.where(scaled.isfinite(), places, 0).amax(-1, keepdim=True)
    return torch.minimum(index, last)[:, 0].tolist()


def _without_tail(scaled: torch.Tensor, rows: Sequence[SampleRow], top_p: torch.Tensor) -> torch.Tensor:
    """-inf outside top-k, then top-p, by one sort for both."""
    vocab = scaled.shape[1]
    ordered = scaled.sort(-1, descending=True).values
    ranks = [r.top_k if 0 < r.top_k < vocab else vocab for r in rows]
    kth = ordered.gather(1, torch.tensor(ranks, device=scaled.device)[:, None] - 1)
    ordered = ordered.masked_fill(ordered < kth, -torch.inf)
    probs = ordered.double().softmax(-1)
    # The mass before a token does not suffice yet.
    kept = (probs.cumsum(-1) - probs < top_p).sum(-1, keepdim=True).clamp(min=1)
    least = torch.where(top_p < 1, torch.maximum(kth, ordered.gather(1, kept - 1)), kth)
    return scaled.masked_fill(scaled < least, -torch.inf)
