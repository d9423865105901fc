"""The base with a fresh adapter: PEFT's layers, started as asked for, in float32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import TrainingError
from ..model.loading import (
    check_architecture,
    eos_ids,
    identity_of,
    read_base,
    resolve_device,
    resolve_dtype,
)
from ..model.modules import base_modules
from ..model.source import check_source
from ..modules import BaseModule
from .config import TrainConfig
from .convert import changes_base
from .targets import Ranks, choose_ranks, select_targets

ADAPTER = "default"
TRAINED = ("lora_A", "lora_B", "lora_magnitude_vector")


@dataclass(frozen=True)
class LoadedBase:
    """transformers' model as it lies on disk; `ends` are the ids that end an answer when it is
    served."""

    model: Any
    tokenizer: Any
    identity: str
    name: str
    ends: frozenset[int]
    context: int


def load_base(config: TrainConfig) -> LoadedBase:
    """Raises BaseModelError for what could not be served either, and for a quantised base."""
    check_source(config.base)
    device = resolve_device(config.device)
    model, tokenizer = read_base(
        config.base, base_dtype(config.dtype, device), device, packed=False
    )
    context, _ = check_architecture(model, model.config.get_text_config())
    identity = identity_of(config.base, model)
    name = config.base_name or config.base.resolve().name
    return LoadedBase(model, tokenizer, identity, name, eos_ids(model, tokenizer), context)


def base_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype as for serving, but float32 on a GPU that would only emulate bfloat16."""
    if (
        dtype == "auto"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        return torch.float32
    return resolve_dtype(dtype, device)


def add_adapter(base: LoadedBase, config: TrainConfig) -> Any:
    """A PeftModel over the base's own model, frozen but for A, B and DoRA's magnitudes.

    Raises TrainingError for targets or a start that the base cannot have.
    """
    from peft import LoraConfig, get_peft_model

    chosen = select_targets(base_modules(base.model), config.targets)
    _check_start(config, chosen, base.model)
    ranks = choose_ranks(config, chosen)
    base.model.name_or_path = base.name
    lora = LoraConfig(task_type="CAUSAL_LM", **_lora_fields(config, ranks))
    try:
        model = get_peft_model(base.model, lora)
    except (ValueError, TypeError) as error:
        raise TrainingError(f"the adapter cannot be made: {error}") from error
    adapted = {name.removeprefix("base_model.model."): layer for name, layer in lora_layers(model)}
    if adapted.keys() != chosen.keys():
        different = ", ".join(sorted(adapted.keys() ^ chosen.keys())[:5])
        raise TrainingError(f"PEFT adapts other modules than the targets name: {different}")
    if config.init == "B":
        for layer in adapted.values():
            _start_with_b(layer)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if not any(f".{part}." in name for part in TRAINED):
                raise TrainingError(
                    f"{name} would be trained: only A, B and DoRA's magnitudes may be"
                )
            parameter.data = parameter.data.float()
    return model


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Path and layer of every module that has an adapter."""
    from peft.tuners.lora import LoraLayer

    return ((n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer))


def _lora_fields(config: TrainConfig, ranks: Ranks) -> dict[str, Any]:
    return {
        "r": ranks.rank,
        "lora_alpha": ranks.alpha,
        "rank_pattern": ranks.rank_pattern,
        "alpha_pattern": ranks.alpha_pattern,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "lora_dropout": config.dropout,
        "init_lora_weights": True if config.init in "AB" else config.init,
        "target_modules": config.targets
        if isinstance(config.targets, str)
        else list(config.targets),
    }


def _check_start(config: TrainConfig, chosen: dict[str, BaseModule], model: Any) -> None:
    if config.init == "olora" and any(m.transposed for m in chosen.values()):
        raise TrainingError(
            "init 'olora' is not possible: PEFT does not know it for this base's Conv1D layers"
        )
    if changes_base(config):
        _check_unshared(config.init, chosen, model)


def _check_unshared(init: str, chosen: dict[str, BaseModule], model: Any) -> None:
    """A start that changes a module's weight would change the others that share it, which no
    adapter gives back."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(weight := getattr(module, "weight", None), torch.Tensor):
            owners.setdefault(id(weight), []).append(name)
    for names in owners.values():
        if len(names) > 1 and (target := next((n for n in names if n in chosen), None)):
            other = next(n for n in names if n != target)
            raise TrainingError(
                f"init {init!r} is not possible for {target!r}: it changes the module's weight, which "
                f"{other!r} shares"
            )


@torch.no_grad()
def _start_with_b(layer: Any) -> None:
    """Init[B] of "The Impact of Initialization on LoRA Finetuning Dynamics" (arXiv:2406.08447): A
    zero, B random.

    B by the rule that PEFT has for A: uniform in ± 1 / sqrt(fan in), which is the rank here.
    """
    nn.init.zeros_(layer.lora_A[ADAPTER].weight)
    nn.init.kaiming_uniform_(layer.lora_B[ADAPTER].weight, a=math.sqrt(5))
