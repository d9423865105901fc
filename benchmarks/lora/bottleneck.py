"""Bottleneck adapters (Houlsby et al., arXiv:1902.00751), for training only: loramux does not serve
them.

Two in every layer, as in the paper: behind the attention's output projection and behind the MLP's,
before the residual is added. h + up(gelu(down(h))) with biases; `up` starts at zero, so that
training starts at the base exactly (the paper's start is near zero). The layer norms stay frozen,
which the paper trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

PLACES = ("self_attn.o_proj", "mlp.down_proj")


class Bottleneck(nn.Module):
    """h (..., width) → h + up(gelu(down(h))), computed in float32."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(features, width), nn.Linear(width, features)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.up(functional.gelu(self.down(h.float()))).to(h.dtype)


class Bottlenecks(nn.Module):
    """A model and its bottlenecks; all else is as it was. Has what the training loop asks a
    PeftModel for."""

    def __init__(self, model: Any, width: int) -> None:
        super().__init__()
        self.model = model
        self.bottlenecks = nn.ModuleList()
        for layer in _base_of(model).model.layers:
            for place in PLACES:
                linear = layer.get_submodule(place)
                self.bottlenecks.append(Bottleneck(linear.out_features, width))
                linear.register_forward_hook(_through(self.bottlenecks[-1]))

    @property
    def device(self) -> torch.device:
        return self.model.device

    def get_base_model(self) -> Any:
        return _base_of(self.model)

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def parameters_per_width(model: Any) -> Iterator[tuple[int, int]]:
    """(parameters per unit of width, parameters whatever the width) of every bottleneck."""
    for layer in _base_of(model).model.layers:
        for place in PLACES:
            features = layer.get_submodule(place).out_features
            yield 2 * features + 1, features


def width_for(model: Any, budget: int) -> int:
    """Of bottlenecks with about `budget` parameters together; at least 1."""
    slopes, fixed = zip(*parameters_per_width(model), strict=True)
    return max(1, round((budget - sum(fixed)) / sum(slopes)))


def _base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _through(module: nn.Module) -> Callable[..., torch.Tensor]:
    return lambda linear, args, output: module(output)
