"""What a step's forward gives back."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepOutput:
    """`logits`: (rows that sample, vocab) float32, valid until the next step; `greedy`: their argmax, -1 for NaN."""

    logits: torch.Tensor
    greedy: list[int]
