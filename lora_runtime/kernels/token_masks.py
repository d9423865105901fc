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
    if logits.is_cpu:  # where this is the quicker way
        bits = np.unpackbits(~packed.view(np.uint8), axis=1, count=vocab, bitorder="little")
        is_out = torch.from_numpy(bits).view(torch.bool)
    else:
        is_out = _is_out(upload(torch.from_numpy(packed.view(np.int32)), logits.device), vocab)
    if len(rows) == len(logits):
        logits.masked_fill_(is_out, -torch.inf)
        return
    places = upload(torch.tensor(rows), logits.device)
    logits.index_copy_(0, places, logits.index_select(0, places).masked_fill_(is_out, -torch.inf))


def _is_out(packed: torch.Tensor, vocab: int) -> torch.Tensor:
    """(rows, vocab) whether each bit is 0, on the device of the (rows, words) int32 ones."""
    shifts = torch.arange(32, dtype=torch.int32, device=packed.device)
    return ((packed[:, :, None] >> shifts) & 1).view(len(packed), -1)[:, :vocab] == 0


def mask_tokens_reference(row: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    """Mask one row (vocab,); a new tensor."""
    row = row.clone()
    for token in range(len(row)):
        if token // 32 >= len(mask) or not int(mask[token // 32]) >> token % 32 & 1:
            row[token] = -torch.inf
    return row
