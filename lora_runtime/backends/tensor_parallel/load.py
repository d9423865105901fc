"""A base over several processes, from its files."""

from __future__ import annotations

import os
from typing import Any

import torch

from ...base_model import BaseModel
from ...errors import BaseModelError
from ...model.loading import check_source, resolve_device
from .group import ParallelGroup
from .shard_plan import plan_of


def load_parallel(source: str | os.PathLike[str], world: int, device: str, unsplit: dict[str, str],
                  load: dict[str, Any]) -> BaseModel:
    """BaseModel.load with `tensor_parallel` > 1; `load`: what goes to BaseModel.load_part as it is.

    `unsplit`: settings of what runs on one rank only, which must be left as they are; kernels may be torch too.
    Raises BaseModelError for what is not split, or not there; no process is left then.
    """
    kind = _device_of(device, world)
    for name, value in unsplit.items():
        if value not in ("auto", "off") and (name, value) != ("kernels", "torch"):
            raise BaseModelError(f"{name} {value} does not go with tensor_parallel: it runs the torch path")
    check_source(source, load["trust_hub"])
    load = load | {"device": kind, "kernels": "torch", "weights": "auto", "attention_route": "auto",
                   "compile": "off"}
    group = ParallelGroup(os.fspath(source), plan_of(source, world), kind, load)
    try:
        return BaseModel.load_part(source, **load, member=group.member, group=group)
    except Exception as error:
        reason = group.failure_or(error)
        group.close()
        raise BaseModelError(f"tensor_parallel: {reason}") from error
    except BaseException:
        group.close()
        raise


def _device_of(device: str, world: int) -> str:
    """cpu or cuda; which CUDA devices is not a choice: the first ones."""
    if device.startswith("cuda:"):
        raise BaseModelError(f"tensor_parallel takes the first {world} CUDA devices: {device} cannot be chosen")
    kind = resolve_device(device).type
    if kind not in ("cpu", "cuda"):
        raise BaseModelError(f"tensor_parallel runs on cpu or cuda, not on {kind}")
    if kind == "cuda" and (found := torch.cuda.device_count()) < world:
        raise BaseModelError(f"tensor_parallel {world} needs as many CUDA devices: {found} are here")
    return kind
