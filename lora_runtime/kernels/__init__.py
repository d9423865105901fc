"""Compute ops, one signature each, with the implementation chosen once at start.

An op's reference in torch says what is computed; a faster implementation takes its place here and
must match it on random inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import attention, lora


@dataclass(frozen=True)
class Kernels:
    """The implementations in use and their names, as shown in logs, metrics and GetServerInfo."""

    lora: Callable[..., None]
    attention: Callable[..., torch.Tensor]
    names: dict[str, str]


def select(device: torch.device) -> Kernels:
    """Choose the implementation of every op for `device`. Only the torch references exist so far."""
    return Kernels(
        lora=lora.add_lora_reference,
        attention=attention.paged_attention_reference,
        names={"lora": f"torch/{device.type}", "paged_attention": f"torch/{device.type}"},
    )
