"""Compute ops, one signature each, with the implementation chosen once at start.

An op's reference in torch says what is computed; a faster implementation takes its place here and
must match it on random inputs. On x86-64 CPUs the whole step runs in C++ instead (cpu/).
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import BaseModelError
from . import attention, cache, lora

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernels:
    """The implementations of one path and their names, as shown in logs, metrics and GetServerInfo."""

    lora: Callable[..., None]
    attention: Callable[..., torch.Tensor]
    names: dict[str, str]
    write_kv: Callable[..., None] = cache.write_kv_reference
    """As cache.write_kv_reference."""
    update_group: Callable[..., None] | None = None
    """As grouped.update_group_reference, for the device path; None on the torch path."""
    shrink: Callable[..., None] | None = None
    expand: Callable[..., None] | None = None
    """The two halves of `update_group`, where it has halves: the first needs no y."""
    captures: bool = True
    """Whether a step with this attention can be captured as a CUDA graph: it plans nothing on the host."""


def select(device: torch.device, kernels: str = "auto", attention_route: str = "auto") -> Kernels:
    """The implementations for `device` that transformers' forward calls; `kernels`, `attention_route`: see EngineConfig.

    Raises BaseModelError for what was asked for by name and cannot run here.
    """
    if not _wants_triton(device, kernels):
        if attention_route != "auto":
            raise BaseModelError(f"attention {attention_route!r} needs a CUDA device and kernels auto or triton")
        return _torch(device)
    if attention_route == "flashinfer":
        raise NotImplementedError
    return _triton(device)


def _wants_triton(device: torch.device, kernels: str) -> bool:
    """auto: on CUDA, where there is triton. On a CPU only its interpreter can run them."""
    if kernels == "torch" or (kernels == "auto" and device.type != "cuda"):
        return False
    installed = importlib.util.find_spec("triton") is not None
    if kernels == "auto":
        if not installed:
            log.warning("no triton package: the torch references run, which are slow")
        return installed
    if not installed:
        raise BaseModelError("kernels 'triton' needs the package triton, which is not installed")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BaseModelError(f"kernels 'triton' run on CUDA, not on {device.type} (but for TRITON_INTERPRET=1, slowly)")
    return True


def _triton(device: torch.device) -> Kernels:
    from .triton import attention as triton_attention  # defined, and so compiled or interpreted, where it is used
    from .triton import cache as triton_cache
    from .triton import lora as triton_lora

    name = "triton" if device.type == "cuda" else "triton/interpreter"
    return Kernels(
        lora=lora.add_lora_reference, attention=triton_attention.paged_attention, write_kv=triton_cache.write_kv,
        names={"lora": name, "paged_attention": name}, update_group=triton_lora.update_group,
        shrink=triton_lora.shrink, expand=triton_lora.expand)


def _torch(device: torch.device) -> Kernels:
    return Kernels(
        lora=lora.add_lora_reference,
        attention=attention.paged_attention_reference,
        names={"lora": f"torch/{device.type}", "paged_attention": f"torch/{device.type}"},
    )
