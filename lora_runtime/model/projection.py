"""Target projections: the base GEMM of the module as transformers built it, plus segmented LoRA."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .state import StepState


class LoraProjection(nn.Module):
    """Wraps one frozen linear module; without LoRA segments it costs one dict look-up.

    `in_features`, `out_features` are those of the mathematical map, whatever the layout of the
    weight: (out, in) for Linear, (in, out) for Conv1D.
    """

    def __init__(self, name: str, base: nn.Module, state: StepState) -> None:
        super().__init__()
        self.name = name
        self.base = base
        self.transposed = isinstance(base, Conv1D)
        weight: torch.Tensor = base.weight  # type: ignore[assignment]
        shape = tuple(weight.shape)
        self.out_features, self.in_features = (shape[1], shape[0]) if self.transposed else shape
        self._state = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (1, T, in) → (1, T, out)."""
        y = self.base(x)
        segments = self._state.lora.get(self.name)
        if segments:
            self._state.kernels.lora(y[0], x[0], segments)
        return y


def wrap_projections(model: nn.Module, state: StepState, skip: nn.Module | None) -> dict[str, LoraProjection]:
    """Replace every Linear and Conv1D but `skip` (the lm_head); returns them by module path."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not skip
    }
    wrapped = {}
    for name, module in found.items():
        parent, _, child = name.rpartition(".")
        wrapped[name] = LoraProjection(name, module, state)
        setattr(model.get_submodule(parent), child, wrapped[name])
    return wrapped
