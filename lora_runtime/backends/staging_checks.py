"""Checks of an update against the module that is to take it, and their sizes."""

from __future__ import annotations

from collections.abc import Set

import torch

from ..adapters.peft.update import ModuleUpdate
from ..errors import AdapterError
from ..kernels.updates import MAX_RANK
from ..modules import BaseModule, ModuleKind


def check_update(name: str, module: BaseModule, update: ModuleUpdate, quantised: Set[str]) -> None:
    """Check that the module can take the update. Raises AdapterError naming the module."""
    out, columns, kind = module.out_features, module.columns, module.kind
    if kind is ModuleKind.EMBEDDING:
        refuse(name, update, "an embedding", "bias", "lora_bias")
    elif kind is ModuleKind.LINEAR:
        refuse(name, update, "a projection", "token_rows")
    if name in quantised:
        refuse(name, update, "quantised", "weight", "token_rows")
        if kind is ModuleKind.EMBEDDING or update.rows:
            refuse(name, update, "a quantised embedding or lm_head", "magnitude")
        if update.rows > module.rows:
            raise AdapterError(f"tokens added to {name!r} are not supported: it is quantised")
    if update.bias is not None and not module.has_bias:
        raise AdapterError(f"module {name!r} has no bias to replace")
    if (update.a is None) != (update.b is None):
        raise AdapterError(f"module {name!r} has one half of A and B")
    if update.a is None and (update.magnitude is not None or update.lora_bias is not None):
        raise AdapterError(f"module {name!r} has parts of LoRA without A and B")
    if update.weight is not None and update.weight.ndim != 2:
        raise AdapterError(f"module {name!r}: weight has {update.weight.ndim} dimensions")
    rank = update.rank
    if rank > MAX_RANK:
        raise AdapterError(
            f"module {name!r}: rank {rank} is above {MAX_RANK}, the most that the kernels take"
        )
    embedding = kind is ModuleKind.EMBEDDING
    outputs = out if embedding else outputs_of(module, update)
    expected = {
        "a": (rank, None if embedding else columns),
        "b": (outputs, rank),
        "magnitude": (outputs,),
        "lora_bias": (outputs,),
        "bias": (outputs,),
        "token_rows": (len(update.token_ids), columns),
    }
    for part, shape in expected.items():
        if (tensor := getattr(update, part)) is not None:
            check_shape(name, part, tensor, shape)
    if len(set(update.token_ids)) != len(update.token_ids) or any(t < 0 for t in update.token_ids):
        raise AdapterError(f"module {name!r}: token ids are negative or appear twice")


def outputs_of(module: BaseModule, update: ModuleUpdate) -> int:
    """Outputs with the adapter, of an embedding tokens."""
    if update.rows or update.weight is None:
        return update.rows or module.rows
    return update.weight.shape[int(module.transposed)]


def refuse(name: str, update: ModuleUpdate, kind: str, *parts: str) -> None:
    for part in parts:
        if getattr(update, part) is not None:
            what = "LoRA" if part == "a" else part
            raise AdapterError(f"{what} on {name!r} is not supported: it is {kind}")


def check_shape(
    name: str, part: str, tensor: torch.Tensor, expected: tuple[int | None, ...]
) -> None:
    if tensor.ndim != len(expected) or any(
        e not in (None, n) for n, e in zip(tensor.shape, expected, strict=True)
    ):
        raise AdapterError(
            f"module {name!r}: {part} has shape {tuple(tensor.shape)}, the base needs {expected}"
        )
