"""A and B gathered for every row, then batched products: the ablation of S-LoRA (arXiv:2311.03285),
which with a largest rank pads all to it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from benchmarks.gpu.places import SCALING

from .inputs import Inputs
from .variant import Variant, behind_base


def exact_rank(inputs: Inputs) -> Variant:
    return _gathered(inputs, inputs.adapters.rank)


def padded_to_64(inputs: Inputs) -> Variant:
    return _gathered(inputs, 64)


def _gathered(inputs: Inputs, rank: int) -> Variant:
    adapters, columns = inputs.adapters, inputs.place.columns
    more = rank - adapters.rank
    slots, projections = adapters.slots, len(columns)
    all_a, all_b = adapters.a, adapters.b
    if more:
        all_a = [
            F.pad(a.view(slots, projections, adapters.rank, -1), (0, 0, 0, more)).flatten(1, 2)
            for a in all_a
        ]
        all_b = [F.pad(b, (0, more)) for b in all_b]

    def lora(layer: int, y: torch.Tensor) -> None:
        a, b = (t[layer].index_select(0, inputs.slots) for t in (all_a, all_b))
        h = torch.bmm(a, inputs.x.unsqueeze(2)).view(-1, projections, rank, 1)
        for i, at in enumerate(columns):
            y[:, at].add_(torch.bmm(b[:, at], h[:, i]).squeeze(2), alpha=SCALING)

    return behind_base(inputs, lora)
