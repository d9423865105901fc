"""Masks of tokens, a bit for each: what a row may not have next is put to -inf."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .host_to_device import upload


def mask_tokens(logits: torch.Tensor, rows: Sequence[int], masks: Sequence[np.ndarray]) -> None:
    """Put to -inf in place, in `rows` of logits (n, vocab), each token whose bit is 0 in the row's
    mask (words,) uint32, and those behind the mask's end; the host does not wait.

    Computes what mask_tokens_reference does for one row.
    """
    vocab = logits.shape[1]
    packed = np.zeros((len(rows), -(-vocab // 32)), np.uint32)
    for place, mask in enumerate(masks):
        words = min(len(mask), packed.shape[1])
        packed[place, :words] = mask[:words]
    bits = upload(torch.from_numpy(packed.view(np.int32)), logits.device)
    shifts = torch.arange(32, dtype=torch.int32, device=logits.device)
    is_out = ((bits[:, :, None] >> shifts) & 1).view(len(rows), -1)[:, :vocab] == 0
    if len(rows) == len(logits):
        logits.masked_fill_(is_out, -torch.inf)
        return
    places = upload(torch.tensor(rows), logits.device)
    logits.index_copy_(0, places, logits.index_select(0, places).masked_fill_(is_out, -torch.inf))


def mask_tokens_reference(row: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    """Mask one row (vocab,); a new tensor."""
    row = row.clone()
    for token in range(len(row)):
        if token // 32 >= len(mask) or not int(mask[token // 32]) >> token % 32 & 1:
            row[token] = -torch.inf
    return row
