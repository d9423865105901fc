"""PEFT itself, with the adapters of a mixed batch named row by row: it loops over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.gpu.places import SCALING

from .inputs import Inputs
from .variant import Variant


class _Projections(nn.Module):
    def __init__(self, weights: list[torch.Tensor]) -> None:
        super().__init__()
        self.linears = nn.ModuleList()
        for weight in weights:
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            linear.weight = nn.Parameter(weight, requires_grad=False)
            self.linears.append(linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([linear(x) for linear in self.linears], -1)


def loop(inputs: Inputs) -> Variant:
    """Raises ImportError without PEFT."""
    from peft import LoraConfig, get_peft_model

    layer, rank, columns = inputs.layers - 1, inputs.adapters.rank, inputs.place.columns
    config = LoraConfig(
        r=rank,
        lora_alpha=int(SCALING * rank),
        init_lora_weights=False,
        target_modules=[f"linears.{i}" for i in range(len(columns))],
    )
    names = [f"adapter-{slot}" for slot in range(inputs.adapters.slots)]
    model: Any = get_peft_model(
        _Projections([inputs.weight(layer)[at] for at in columns]), config, names[0]
    )
    for name in names[1:]:
        model.add_adapter(name, config)
    for slot, name in enumerate(names):
        for i, linear in enumerate(model.get_base_model().linears):
            for part, weight in zip(
                (linear.lora_A, linear.lora_B), inputs.adapters.of(slot, layer, i), strict=True
            ):
                part[name].weight = nn.Parameter(weight, requires_grad=False)
    model.eval()
    rows = [names[slot] for slot in inputs.slots.tolist()]
    return Variant(lambda _: model(inputs.x, adapter_names=rows), captured=False)
