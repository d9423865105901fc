"""Starts that change the base, made into adapters of the unchanged one."""

from __future__ import annotations

import math
from typing import Any

import torch

from .config import TrainConfig

CHANGED_BASE = ("pissa", "olora")


def changes_base(config: TrainConfig) -> bool:
    """Whether the start subtracts B0 A0 from the base's weights: then ΔW is not zero at the start."""
    return config.init.startswith(CHANGED_BASE)


def subtract_start(
    trained: dict[str, torch.Tensor], initial: dict[str, torch.Tensor], lora: Any
) -> tuple[dict[str, torch.Tensor], Any]:
    """The same model as an adapter of the untouched base: tensors by PEFT's names and their
    LoraConfig.

    PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775) train W' + s B A with W' = W - s B0 A0.
    That is W + s (B A - B0 A0), an adapter of twice the rank: A and A0 (r, in) stacked, B and -B0
    (out, r) side by side. Alpha grows so that the scaling stays. DoRA's norm is of the same sum:
    its magnitudes stay too.
    """
    tensors = {}
    for name, tensor in trained.items():
        if ".lora_A." in name:
            tensor = torch.cat([tensor, initial[name]], dim=0)
        elif ".lora_B." in name:
            tensor = torch.cat([tensor, -initial[name]], dim=1)
        tensors[name] = tensor
    growth = math.sqrt(2) if lora.use_rslora else 2
    lora.r *= 2
    lora.lora_alpha *= growth
    lora.rank_pattern = {k: 2 * r for k, r in lora.rank_pattern.items()}
    lora.alpha_pattern = {k: growth * a for k, a in lora.alpha_pattern.items()}
    lora.init_lora_weights = True
    return tensors, lora
