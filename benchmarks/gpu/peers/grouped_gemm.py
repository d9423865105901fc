"""A group's rows times its own matrix, for all groups in one launch: what mixtures of experts use,
in torch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.gpu.places import SCALING

from .inputs import Inputs
from .variant import Variant, behind_base


def grouped_gemm(inputs: Inputs) -> Variant:
    product: Callable[..., Any] = getattr(F, "grouped_mm", None) or torch._grouped_mm
    adapters, rank = inputs.adapters, inputs.adapters.rank
    ends = torch.tensor(list(accumulate(inputs.counts)), dtype=torch.int32, device=inputs.x.device)

    def lora(layer: int, y: torch.Tensor) -> None:
        h = product(inputs.x, adapters.a[layer].transpose(1, 2), offs=ends)
        for i, at in enumerate(inputs.place.columns):
            b = adapters.b[layer][:, at].transpose(1, 2)
            y[:, at].add_(product(h[:, i * rank : (i + 1) * rank], b, offs=ends), alpha=SCALING)

    return behind_base(inputs, lora)
