"""What a step's forward gives back."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepOutput:
    """`logits`: (rows that sample, vocab + what adapters may add) float32, valid until the next step.

    Tokens that the row's adapters do not have are at -inf. `greedy`: each row's argmax.
    A row with NaN, or whose largest logit is not finite, has -1.
    """

    logits: torch.Tensor
    greedy: list[int]

    @classmethod
    def of(cls, logits: torch.Tensor) -> StepOutput:
        """With the argmax taken here."""
        logits = logits.float()
        return cls(logits, torch.where(logits.max(-1).values.isfinite(), logits.argmax(-1), -1).tolist())
