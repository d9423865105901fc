"""Bases with random weights, of any shape: speed does not depend on what they say."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from benchmarks.gpu.cost import Shape
from lora_runtime import BaseModel, BaseModelError
from lora_runtime.adapters.peft.update import ModuleUpdate
from lora_runtime.backends.triton import fused

MAX_CONTEXT = 8192
_CONFIGS = {"llama": LlamaConfig, "qwen3": Qwen3Config}


def config_of(shape: Shape) -> PretrainedConfig:
    return _CONFIGS[shape.family](
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=False,
    )


def random_base(shape: Shape, device: torch.device, dtype: torch.dtype, slots: int) -> BaseModel:
    """On the device path, with `slots` adapter slots."""
    words = {f"t{i}": i for i in range(shape.vocab)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0"))
    )
    base = _fused_all_the_same(
        lambda: BaseModel.of(_model(shape, device, dtype), tokenizer, shape.name, kernels="triton")
    )
    base.open_slots(slots)
    return base


def _model(shape: Shape, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            config_of(shape), dtype=dtype, attn_implementation="eager"
        )


def _fused_all_the_same(make: Callable[[], BaseModel]) -> BaseModel:
    """Also where the check after fusing finds logits too different: how different, `fused_error`
    tells, and what the base's speed is can still be seen."""
    try:
        return make()
    except BaseModelError as error:
        if "fused projections" not in str(error):
            raise
    gc.collect()  # the first one's modules refer to each other
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    tolerance, fused._TOLERANCE = fused._TOLERANCE, float("inf")
    try:
        return make()
    finally:
        fused._TOLERANCE = tolerance


def random_updates(base: BaseModel, shape: Shape, rank: int) -> dict[str, ModuleUpdate]:
    """An adapter of `rank` on every projection, drawn where the base is: on a GPU that takes no
    time."""
    generator = torch.Generator(base.device).manual_seed(rank)
    updates = {}
    for name, module in base.modules.items():
        if name.rpartition(".")[2] in shape.projections:
            a, b = (
                torch.randn(size, generator=generator, dtype=base.dtype, device=base.device) * 0.02
                for size in ((rank, module.in_features), (module.out_features, rank))
            )
            updates[name] = ModuleUpdate(a=a, b=b, scaling=2.0)
    return updates
