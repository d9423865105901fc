"""What the others are held against: the base's product alone, and this project's kernels."""

from __future__ import annotations

import torch

from lora_runtime.kernels.plan import DECODE_TILE
from lora_runtime.kernels.triton.lora import update_group

from .inputs import Inputs
from .variant import Variant, behind_base


def merged(inputs: Inputs) -> Variant:
    return Variant(inputs.base, adapts=False)


def ours(inputs: Inputs) -> Variant:
    adapters = inputs.adapters
    table, groups, plan = (
        adapters.table(),
        adapters.groups,
        adapters.plan(inputs.counts, DECODE_TILE),
    )

    def lora(layer: int, y: torch.Tensor) -> None:
        update_group(y, inputs.x, groups[layer], plan, table)

    return behind_base(inputs, lora, plan.hidden)
