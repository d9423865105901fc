"""Bases and adapters that the fleets serve: a tiny random one, and SmolLM2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.common.paths import ARTIFACTS, MODEL
from benchmarks.common.workloads import adapter_dir

ADAPTERS = 64
RANKS = (8, 16)
_BOS, _EOS, _VOCAB = 256, 257, 258


@dataclass(frozen=True)
class Base:
    """A base, the adapters beside it, and what is asked of it."""

    name: str
    directory: Callable[[], Path]
    """Give it, made if it is not there."""
    dtype: str
    prompt: str
    max_new_tokens: int


def adapter_names() -> list[str]:
    """The most popular one first; ranks alternate."""
    return [f"r{RANKS[i % len(RANKS)]}-{i:04d}" for i in range(ADAPTERS)]


def manifest(base: Base) -> Path:
    """Write the adapters that are not there, and the manifest that declares all of them."""
    model = base.directory()
    lines = [f"- name: {name}\n  source: {adapter_dir(name, model)}\n" for name in adapter_names()]
    path = ARTIFACTS / f"fleet/{base.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("adapters:\n" + "".join(lines))
    return path


def _tiny() -> Path:
    """Give a Llama of three layers with a token for each byte."""
    directory = ARTIFACTS / "fleet/tiny"
    if not directory.is_dir():
        scratch = directory.with_name(".tiny")
        shutil.rmtree(scratch, ignore_errors=True)
        _save_model(scratch)
        _save_tokenizer(scratch)
        scratch.rename(directory)
    return directory


def _save_model(directory: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM  # slow to import, and rarely wanted

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.25,
        bos_token_id=_BOS,
        eos_token_id=_EOS,
        pad_token_id=_EOS,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    written = json.loads((directory / "config.json").read_text())
    assert written["head_dim"] == config.head_dim  # what adapters' shapes are made from


def _save_tokenizer(directory: Path) -> None:
    from transformers import PreTrainedTokenizerFast  # as above

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: i for i, letter in enumerate(letters)} | {"<s>": _BOS, "</s>": _EOS}
    raw = Tokenizer(models.BPE(ids, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(directory)


BASES = {
    base.name: base
    for base in (
        Base("tiny", _tiny, "float32", "What is the capital of France?", 8),
        Base(
            "smollm2",
            lambda: MODEL,
            "bfloat16",
            "Question: what is the capital of France, which river runs through it, and who built "
            "the tower that stands beside that river?\nAnswer:",
            8,
        ),
    )
}
