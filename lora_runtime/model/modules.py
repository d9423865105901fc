"""The modules of a base that an adapter may change, by their paths in transformers' model."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..modules import BaseModule, ModuleKind
from .quantised import features


def base_modules(model: Any, quantised: Set[str] = frozenset()) -> dict[str, BaseModule]:
    """Modules of a model as transformers builds it, on the meta device too.

    `quantised`: see `quantised_modules`.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = (
        head is not None
        and embeddings is not None
        and getattr(head, "weight", None) is embeddings.weight
    )
    found: dict[str, BaseModule] = {}
    embeddings_name = ""
    for name, module in model.named_modules():
        if module is embeddings:
            vocab, width = module.weight.shape
            found[name] = BaseModule(ModuleKind.EMBEDDING, vocab, width, False)
            embeddings_name = name
        elif (sizes := features(module, anything=name in quantised)) is not None:
            kind = ModuleKind.LM_HEAD if module is head else ModuleKind.LINEAR
            has_bias = getattr(module, "bias", None) is not None
            found[name] = BaseModule(
                kind,
                *sizes,
                has_bias,
                isinstance(module, Conv1D),
                embeddings_name if module is head and tied else "",
            )
        elif is_norm(module):
            width = module.weight.shape[0]
            found[name] = BaseModule(
                ModuleKind.NORM, width, width, getattr(module, "bias", None) is not None
            )
    return found


def is_norm(module: nn.Module) -> bool:
    """True for a norm with one weight per channel, by its class's name: there are many."""
    weight = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and isinstance(weight, torch.Tensor) and weight.ndim == 1
