"""The modules of a base that an adapter may change, by their paths in transformers' model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..adapters.update import BaseModule, ModuleKind


def base_modules(model: Any) -> dict[str, BaseModule]:
    """Works on a model as transformers builds it, on the meta device too."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and embeddings is not None and head.weight is embeddings.weight
    found: dict[str, BaseModule] = {}
    embeddings_name = ""
    for name, module in model.named_modules():
        if module is embeddings:
            vocab, width = module.weight.shape
            found[name] = BaseModule(ModuleKind.EMBEDDING, vocab, width, False)
            embeddings_name = name
        elif isinstance(module, (nn.Linear, Conv1D)):
            kind = ModuleKind.LM_HEAD if module is head else ModuleKind.LINEAR
            found[name] = _linear(module, kind, embeddings_name if module is head and tied else "")
        elif _is_norm(module):
            width = module.weight.shape[0]
            found[name] = BaseModule(ModuleKind.NORM, width, width, getattr(module, "bias", None) is not None)
    return found


def _linear(module: nn.Linear | Conv1D, kind: ModuleKind, tied_to: str) -> BaseModule:
    transposed = isinstance(module, Conv1D)
    first, second = module.weight.shape
    out_features, in_features = (second, first) if transposed else (first, second)
    return BaseModule(kind, in_features, out_features, module.bias is not None, transposed, tied_to)


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and isinstance(weight, torch.Tensor) and weight.ndim == 1
