"""A base over several processes, from its files."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...errors import BaseModelError
from ...model.files import BaseFiles
from ...model.frozen import FrozenModel
from ...model.loading import resolve_device
from ...model.source import check_source
from .group import WorkerGroup
from .shard_plan import plan_of
from .weights import GatheredTensors

_UNSPLIT = ("kernels", "weights", "attention", "compile")
"""Settings of backends that run on one rank only, which must be left as they are; kernels may be
torch too."""


def load_split(files: BaseFiles) -> tuple[FrozenModel, WorkerGroup, GatheredTensors]:
    """Load rank 0's part of the base; gives it, the group, and what staging needs of all parts.

    Raises BaseModelError for what is not split, or not there; no process is left then.
    """
    config, world = files.config, files.config.tensor_parallel
    kind = _device_of(config.device, world)
    for name in _UNSPLIT:
        value = getattr(config, name)
        if value not in ("auto", "off") and (name, value) != ("kernels", "torch"):
            raise BaseModelError(
                f"{name} {value} does not go with tensor_parallel: it runs the torch path"
            )
    parts = files.under(replace(config, device=kind, kernels="torch"))
    check_source(files.source, config.trust_hub)
    group = WorkerGroup(parts, plan_of(files.source, world), kind)
    try:
        frozen = parts.read_part(group.member.loading(), group.member.hook)
        return frozen, group, group.tensors(frozen)
    except Exception as error:
        reason = group.failure_or(error)
        group.close()
        raise BaseModelError(f"tensor_parallel: {reason}") from error
    except BaseException:
        group.close()
        raise


def _device_of(device: str, world: int) -> str:
    """Kind of the devices, cpu or cuda; which CUDA devices is not a choice: the first ones."""
    if device.startswith("cuda:"):
        raise BaseModelError(
            f"tensor_parallel takes the first {world} CUDA devices: {device} cannot be chosen"
        )
    kind = resolve_device(device).type
    if kind not in ("cpu", "cuda"):
        raise BaseModelError(f"tensor_parallel runs on cpu or cuda, not on {kind}")
    if kind == "cuda" and (found := torch.cuda.device_count()) < world:
        raise BaseModelError(
            f"tensor_parallel {world} needs as many CUDA devices: {found} are here"
        )
    return kind
