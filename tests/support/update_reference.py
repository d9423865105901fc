"""What a module computes under a ModuleUpdate, by the contract's formulas in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from lora_runtime.adapters.peft.update import ModuleUpdate
from lora_runtime.modules import BaseModule, ModuleKind


def apply_update(
    module: torch.nn.Module, base: BaseModule, update: ModuleUpdate, x: torch.Tensor
) -> torch.Tensor:
    """The output of the base's `module` (in float64) for x: features, or token ids for embeddings."""
    weight = _double(update.weight, module.weight)
    bias = _double(update.bias, getattr(module, "bias", None))
    if base.kind is ModuleKind.NORM:
        return torch.func.functional_call(
            module, {"weight": weight} | ({"bias": bias} if bias is not None else {}), x
        )
    if base.transposed or base.kind is ModuleKind.EMBEDDING:
        weight = weight.T  # (out, in)
    if update.token_rows is not None:
        weight = weight.clone()
        rows, ids = update.token_rows.double(), list(update.token_ids)
        if base.kind is ModuleKind.EMBEDDING:
            weight[:, ids] = rows.T
        else:
            weight[ids] = rows
    total = weight
    if update.a is not None and update.b is not None:
        total = weight + update.scaling * update.b.double() @ update.a.double()
    if update.magnitude is not None:
        total = (update.magnitude.double() / torch.linalg.norm(total, dim=1))[:, None] * total
    if base.kind is ModuleKind.EMBEDDING:
        return functional.embedding(x, total.T) * getattr(module, "embed_scale", 1.0)
    y = functional.linear(x, total, bias)
    return y if update.lora_bias is None else y + update.scaling * update.lora_bias.double()


def _double(replacement: torch.Tensor | None, own: Any) -> Any:
    chosen = own if replacement is None else replacement
    return None if chosen is None else chosen.detach().double()
