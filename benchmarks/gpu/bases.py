"""Bases with random weights, of any shape: speed does not depend on what they say."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from gpu.cost import Shape
from lora_runtime import BaseModel
from lora_runtime.adapters.update import ModuleUpdate

MAX_CONTEXT = 8192


def llama_config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=MAX_CONTEXT, tie_word_embeddings=False)


def random_base(shape: Shape, device: torch.device, dtype: torch.dtype, slots: int) -> BaseModel:
    """On the device path, with `slots` adapter slots."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(llama_config(shape), dtype=dtype, attn_implementation="eager")
    words = {f"t{i}": i for i in range(shape.vocab)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0")))
    base = BaseModel(model, tokenizer, shape.name, "", kernels="triton")
    base.open_slots([name for linear in base.linears for name in linear.names], slots)
    return base


def save_config(shape: Shape, directory: Path) -> Path:
    """All of a base that workloads.write_adapter reads."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(llama_config(shape).to_dict()))
    return directory


def random_updates(base: BaseModel, shape: Shape, rank: int) -> dict[str, ModuleUpdate]:
    """An adapter of `rank` on every projection."""
    generator = torch.Generator().manual_seed(rank)
    updates = {}
    for name, module in base.modules.items():
        if name.rpartition(".")[2] in shape.projections:
            a, b = (torch.randn(size, generator=generator, dtype=base.dtype) * 0.02
                    for size in ((rank, module.in_features), (module.out_features, rank)))
            updates[name] = ModuleUpdate(a=a, b=b, scaling=2.0)
    return updates
