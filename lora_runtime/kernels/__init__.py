"""Compute ops, one signature each, with the implementation chosen once at start.

An op's reference in torch says what is computed; a faster implementation takes its place here and
must match it on random inputs. On x86-64 CPUs the whole step runs in C++ instead (cpu/).

May import: errors, kernels.triton, modules.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..errors import BaseModelError
from . import attention, cache, flashinfer, lora

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernels:
    """The implementations of one path and their names, as shown in logs, metrics and GetServerInfo."""

    lora: Callable[..., None]
    attention: Callable[..., torch.Tensor]
    names: dict[str, str]
    write_kv: Callable[..., None] = cache.write_kv_reference
    """Called as cache.write_kv_reference."""
    check_heads: Callable[[int, int, torch.dtype], None] = lambda dim, dim_v, dtype: None
    """Raises BaseModelError if `attention` cannot take a layer's dims of keys and of values, or the
    dtype."""
    takes_sinks: bool = False
    """Whether `attention` takes sinks."""
    captures: bool = True
    """Whether a step with this attention can be captured as a CUDA graph: it plans nothing on the
    host."""


@dataclass(frozen=True, kw_only=True)
class PlannedKernels(Kernels):
    """With those that update fused linear maps from the slot table."""

    update_group: Callable[..., None]
    """As fused_update.update_group_reference."""
    halves: tuple[Callable[..., None], Callable[..., None]] | None = None
    """`update_group` in two, where it has halves: shrink, which needs no y, and expand."""


def select(device: torch.device, kernels: str = "auto", attention_route: str = "auto") -> Kernels:
    """The implementations for `device` that transformers' forward calls.

    `kernels`, `attention_route`: EngineConfig's `kernels` and `attention`. Raises BaseModelError
    for what was asked for by name and cannot run here, and where Triton is installed but cannot
    launch.
    """
    if not wants_triton(device, kernels):
        refuse_route(attention_route)
        return _torch(device)
    _check_triton(device)
    return _triton(device, attention_route)


def wants_triton(device: torch.device, kernels: str) -> bool:
    """Whether Triton's kernels are asked for: by name or, on CUDA and where the package is, by
    auto."""
    if kernels != "auto" or device.type != "cuda":
        return kernels == "triton"
    if not (installed := _has_triton()):
        log.warning("no triton package: the torch references run, which are slow")
    return installed


def refuse_route(attention_route: str) -> None:
    """Raises BaseModelError for an attention that Triton's kernels alone can take, where they do
    not run."""
    if attention_route != "auto":
        raise BaseModelError(
            f"attention {attention_route!r} needs a CUDA device and kernels auto or triton"
        )


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _check_triton(device: torch.device) -> None:
    """On a CPU only its interpreter can run them."""
    if not _has_triton():
        raise BaseModelError("kernels 'triton' needs the package triton, which is not installed")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BaseModelError(
            f"kernels 'triton' run on CUDA, not on {device.type} (but for TRITON_INTERPRET=1, slowly)"
        )


def _triton(device: torch.device, attention_route: str) -> PlannedKernels:
    from .triton.attention import paged_attention
    from .triton.attention_tiles import check_heads
    from .triton.cache import write_kv
    from .triton.first_launch import check_launch
    from .triton.lora import expand, shrink, update_group

    check_launch(device)
    chosen = PlannedKernels(
        lora=lora.add_lora_reference,
        attention=paged_attention,
        write_kv=write_kv,
        update_group=update_group,
        halves=(shrink, expand),
        check_heads=check_heads,
        names={"lora": "triton", "paged_attention": "triton"},
    )
    if attention_route != "flashinfer":
        return chosen
    routed = flashinfer.FlashInferAttention(device)
    return replace(
        chosen,
        attention=routed,
        check_heads=routed.check,
        captures=False,
        names=chosen.names | {"paged_attention": "flashinfer"},
    )


def _torch(device: torch.device) -> Kernels:
    return Kernels(
        lora=lora.add_lora_reference,
        attention=attention.paged_attention_reference,
        takes_sinks=True,
        names={"lora": f"torch/{device.type}", "paged_attention": f"torch/{device.type}"},
    )
