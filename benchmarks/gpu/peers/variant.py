"""What every way to compute LoRA gives to those that check and time it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .inputs import Inputs

Lora = Callable[[int, torch.Tensor], object]


@dataclass(frozen=True)
class Variant:
    """`whole(layer)`: what the base and the adapters make of x, (T, width).

    `lora(layer, y)`: the adapters' part alone, added to y, where it is a step of its own.
    """

    whole: Callable[[int], torch.Tensor]
    lora: Lora | None = None
    scratch: tuple[torch.Tensor, ...] = ()
    """Holds nothing between two calls."""
    captured: bool = True
    """False: its launches from Python are part of it and of its time, and it has the last layer
    alone."""
    adapts: bool = True
    """False: the base's product alone, which is what an adapter costs that was merged into the
    weights."""


def behind_base(inputs: Inputs, lora: Lora, *scratch: torch.Tensor) -> Variant:
    """The base's product, and then `lora` in place."""

    def whole(layer: int) -> torch.Tensor:
        y = inputs.base(layer)
        lora(layer, y)
        return y

    return Variant(whole, lora, scratch)
