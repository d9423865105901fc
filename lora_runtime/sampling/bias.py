"""Bias of single tokens' logits, for all rows of a step at once."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch

from ..kernels.host_to_device import upload
from ..requests.sequence import Sequence
from ..requests.token_bias import Addends


def is_biased(seq: Sequence) -> bool:
    """Whether the next token's logits are changed by the request's bias or by its `min_tokens`."""
    return _addends(seq) is not None


def apply_bias(logits: torch.Tensor, sequences: Seq[Sequence]) -> None:
    """Add each row's addends to logits (rows, vocab) float32, contiguous, in place; as
    apply_bias_reference does for one. The host does not wait."""
    vocab = logits.shape[1]
    places, values = [], []
    for row, seq in enumerate(sequences):
        if found := _addends(seq):
            places.append(found.ids + row * vocab)
            values.append(found.values)
    if not places:
        return
    at = upload(torch.from_numpy(np.concatenate(places)), logits.device)
    flat = logits.view(-1)
    more = upload(torch.from_numpy(np.concatenate(values)), logits.device)
    flat.scatter_(0, at, flat.gather(0, at) + more)


def _addends(seq: Sequence) -> Addends | None:
    if seq.bias is None:
        return None
    if seq.grammar is not None and seq.grammar.only_ends:
        return seq.bias.always  # min_tokens makes nothing go on that cannot
    return seq.bias.at(seq.num_generated)


def apply_bias_reference(
    row: torch.Tensor, num_generated: int, bias: dict[int, float], min_tokens: int, ends: set[int]
) -> torch.Tensor:
    """Add to one row (vocab,) what a request asks for; a new tensor."""
    row = row.clone()
    for token, value in bias.items():
        row[token] += value
    if num_generated < min_tokens:
        row[sorted(ends)] = -torch.inf
    return row
