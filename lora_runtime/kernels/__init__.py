"""Compute ops, one signature each, with the implementation chosen once at start.

An op's reference in torch says what is computed; a faster implementation takes its place here and
must match it on random inputs. On x86-64 CPUs the whole step runs in C++ instead (cpu/).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import attention, lora


@dataclass(frozen=True)
class Kernels:
    """The implementations of the torch path and their names, as shown in logs, metrics and GetServerInfo."""

    lora: Callable[..., None]
    attention: Callable[..., torch.Tensor]
    names: dict[str, str]


def select(device: torch.device) -> Kernels:
    """The implementations for `device` that transformers' forward calls: the torch references."""
    return Kernels(
        lora=lora.add_lora_reference,
        attention=attention.paged_attention_reference,
        names={"lora": f"torch/{device.type}", "paged_attention": f"torch/{device.type}"},
    )
