"""Tiny random base models of every supported architecture, with a byte-level tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

BOS, EOS, VOCAB = 256, 257, 258
MAX_POSITIONS = 512
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": 0.25,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]

ARCHITECTURES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=24),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=12),
    "gemma2": lambda: Gemma2Config(
        **SHAPE,
        head_dim=16,
        sliding_window=12,
        query_pre_attn_scalar=20,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=10.0,
        layer_types=_ALTERNATING,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE, head_dim=16, sliding_window=12, query_pre_attn_scalar=20, layer_types=_ALTERNATING
    ),
    "phi3": lambda: Phi3Config(**SHAPE),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB,
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=MAX_POSITIONS,
        initializer_range=0.25,
        bos_token_id=BOS,
        eos_token_id=EOS,
    ),
}


def make_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte: every script can be spelled, and characters break across tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: i for i, char in enumerate(alphabet)} | {"<s>": BOS, "</s>": EOS}
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


@torch.no_grad()
def vary_constants(model: nn.Module) -> None:
    """Make biases and norms matter, which start at constants."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))


def save_base(
    directory: Path,
    architecture: str = "llama",
    seed: int = 0,
    chat: bool = True,
    layers: int | None = None,
    **shape: int,
) -> Path:
    """A servable base directory: config.json, safetensors, tokenizer. `layers`: the first so many;
    `shape`: fields of the config to change."""
    torch.manual_seed(seed)
    config = ARCHITECTURES[architecture]()
    for field, value in shape.items():
        setattr(config, field, value)
    if layers is not None:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    vary_constants(model)
    model.save_pretrained(directory)
    make_tokenizer(chat).save_pretrained(directory)
    return directory


SCRIPTS = [
    "Plain words, and punctuation!",
    "Ünïcödé façade",
    "Привет, мир",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "你好，世界",
    "こんにちは世界",
    "안녕하세요 세계",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇫🇷",
    "mixed 混合 смесь 🎉 end",
]
