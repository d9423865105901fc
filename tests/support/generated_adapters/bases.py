"""Tiny bases for generated adapters: more rows than their tokenizer has tokens, as many bases have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from ..models import vary_constants

ROWS = 112
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<unused>")
_PAIRS = (("t", "h"), ("th", "e"), ("Ġ", "t"), ("i", "n"))
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
_SHAPE: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
KINDS = ("llama", "tied", "qwen2", "gpt2")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Printable ASCII, four merged pairs, five special tokens."""
    letters = ["Ġ", *map(chr, range(33, 127))]
    pieces = [*SPECIAL, *letters, *("".join(pair) for pair in _PAIRS)]
    model = models.BPE({piece: i for i, piece in enumerate(pieces)}, list(_PAIRS))
    raw = Tokenizer(model)
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def save_base(directory: Path, kind: str) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(kind), dtype=torch.float32)
    vary_constants(model)
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def _config(kind: str) -> PretrainedConfig:
    if kind == "gpt2":  # Conv1D, tied, biases in norms too
        return GPT2Config(
            vocab_size=ROWS,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=256,
            initializer_range=0.25,
            bos_token_id=0,
            eos_token_id=1,
        )
    if kind == "qwen2":  # biases
        return Qwen2Config(**_SHAPE)
    return LlamaConfig(**_SHAPE, tie_word_embeddings=kind == "tied")
