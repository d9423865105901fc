"""What a step's forward gives back."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepOutput:
    """`logits`: (rows that sample, vocab) float32, valid until the next step; `greedy`: their argmax.

    A row with NaN, or whose largest logit is not finite, has -1.
    """

    logits: torch.Tensor
    greedy: list[int]

    @classmethod
    def of(cls, logits: torch.Tensor) -> StepOutput:
        """With the argmax taken here."""
        logits = logits.float()
        return cls(logits, torch.where(logits.max(-1).values.isfinite(), logits.argmax(-1), -1).tolist())
