"""Every field of PEFT's configuration: the updates that the loader reads give what PEFT's own
modules compute."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora_runtime.adapters.peft.fields import FIELDS, PEFT, main, markdown, renew
from lora_runtime.adapters.peft.inspect import describe_base
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.update import CheckedAdapter, ModuleUpdate
from lora_runtime.modules import ModuleKind

from ....support.adapters import edit_config, save_adapter
from ....support.models import VOCAB, save_base
from ....support.update_reference import apply_update
from ....support.updates import tuned_of

PAGE = Path(__file__).parents[4] / "docs/guide/adapter-config.md"


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = save_base(
                tmp_path_factory.mktemp("bases") / architecture, architecture
            )
        return made[architecture]

    return get


def read(directory: Path, base: Path) -> CheckedAdapter:
    return read_adapter(directory, describe_base(base), max_bytes=1 << 30, max_added_tokens=64)


def assert_as_peft(base: Path, directory: Path) -> CheckedAdapter:
    """Every module of the base computes what PEFT's computes, with the adapter."""
    described, checked = describe_base(base), read(directory, base)
    own = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    other = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if checked.vocab_size:
        other.resize_token_embeddings(checked.vocab_size)
    tuned = tuned_of(PeftModel.from_pretrained(other, directory).double().eval())
    generator = torch.Generator().manual_seed(1)
    for name, module in described.modules.items():
        x: Any = torch.randn(5, module.in_features, dtype=torch.float64, generator=generator)
        if module.kind is ModuleKind.EMBEDDING:
            x = torch.arange(checked.vocab_size or VOCAB)
        with torch.no_grad():
            expected = tuned.get_submodule(name)(x)
            actual = apply_update(
                own.get_submodule(name), module, checked.updates.get(name, ModuleUpdate()), x
            )
            assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-5), name
    return checked


LAYER = {"layers_to_transform": [0]}
EMBED, HEAD = "model.embed_tokens", "lm_head"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"r": 3, "lora_alpha": 5}),
    ("llama", {"use_rslora": True, "lora_alpha": 5}),
    (
        "llama",
        {
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "v_proj": 6},
            "alpha_pattern": {"^model.*q_proj": 3},
        },
    ),
    ("llama", {"target_modules": "all-linear", "exclude_modules": ["down_proj"]}),
    (
        "llama",
        {"target_modules": r".*layers\.[01]\..*(q_proj|up_proj)", "exclude_modules": r".*1\.mlp.*"},
    ),
    ("llama", {"layers_to_transform": 1, "layers_pattern": "layers"}),
    ("llama", {"target_modules": ["model.layers.2.self_attn.q_proj", "v_proj"], **LAYER}),
    ("llama", {"lora_bias": True}),
    ("llama", {"use_dora": True, "use_rslora": True}),
    ("llama", {"use_dora": True, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    ("llama", {"target_modules": ["q_proj", "lm_head"], "alpha_pattern": {"lm_head": 20}}),
    ("llama", {"modules_to_save": ["lm_head", "embed_tokens"], **LAYER}),
    ("llama", {"modules_to_save": ["norm"], **LAYER}),
    ("llama", {"modules_to_save": ["mlp"], **LAYER}),
    ("llama", {"trainable_token_indices": [1, 5, 257], **LAYER}),
    ("llama", {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}, **LAYER}),
    ("llama", {"trainable_token_indices": {"lm_head": [3]}, **LAYER}),
    ("llama", {"init_lora_weights": "mica"}),
    ("llama", {"init_lora_weights": "orthogonal"}),
    ("llama", {"added_tokens": 6, **LAYER}),
    ("llama", {"added_tokens": 6, "modules_to_save": ["embed_tokens"], **LAYER}),
    ("llama", {"added_tokens": 6, "modules_to_save": ["embed_tokens", "lm_head"], **LAYER}),
    ("llama", {"added_tokens": 6, "trainable_token_indices": [258, 263], **LAYER}),
    ("llama", {"added_tokens": 6, "target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    ("qwen2", {"bias": "all"}),
    ("qwen2", {"bias": "lora_only", "use_dora": True}),
    ("gemma2", {"target_modules": ["q_proj", "embed_tokens"]}),
    ("gemma2", {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_dora": True}),
    ("gemma2", {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
    ("gemma2", {"target_modules": ".*(q_proj|lm_head)", "ensure_weight_tying": True}),
    (
        "gemma2",
        {
            "target_modules": ["q_proj", "lm_head"],
            "ensure_weight_tying": True,
            "use_dora": True,
            "rank_pattern": {"lm_head": 7},
        },
    ),
    ("gemma2", {"modules_to_save": ["embed_tokens"], **LAYER}),
    ("gemma2", {"modules_to_save": ["lm_head"], **LAYER}),
    ("gemma2", {"modules_to_save": ["lm_head"], "ensure_weight_tying": True, **LAYER}),
    ("gemma2", {"modules_to_save": ["embed_tokens"], "added_tokens": 3, **LAYER}),
    (
        "gemma2",
        {"modules_to_save": ["lm_head"], "ensure_weight_tying": True, "added_tokens": 3, **LAYER},
    ),
    ("gemma2", {"added_tokens": 3, "target_modules": ["q_proj", "embed_tokens"]}),
    ("gemma2", {"added_tokens": 3, "trainable_token_indices": [1, 260], **LAYER}),
    ("gemma2", {"trainable_token_indices": [1, 5], **LAYER}),
    ("gemma2", {"trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [1, 5]}, **LAYER}),
    ("gemma2", {"trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [2]}, **LAYER}),
    ("gemma2", {"trainable_token_indices": {"lm_head": [2]}, **LAYER}),
    ("gemma2", {"trainable_token_indices": [1, 5], "target_modules": ["q_proj", "lm_head"]}),
    ("gpt2", {"target_modules": ["c_attn", "c_fc"], "bias": "all", "lora_bias": True}),
    (
        "gpt2",
        {
            "target_modules": ["c_attn"],
            "bias": "lora_only",
            "fan_in_fan_out": True,
            "use_dora": True,
        },
    ),
    ("gpt2", {"target_modules": ["c_attn"], "bias": "all", "modules_to_save": ["ln_f", "mlp"]}),
    ("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["ln_1", "c_proj"]}),
    ("gpt2", {"target_modules": ["c_attn", "wte"], "ensure_weight_tying": True}),
]


@pytest.mark.parametrize(("architecture", "lora"), CASES, ids=str)
def test_updates_are_what_peft_computes(
    base_of: Callable[[str], Path], tmp_path: Path, architecture: str, lora: dict[str, Any]
) -> None:
    base = base_of(architecture)
    directory = save_adapter(base, tmp_path / "adapter", **lora)
    checked = assert_as_peft(base, directory)
    assert checked.vocab_size == (VOCAB + lora["added_tokens"] if "added_tokens" in lora else 0)
    size = (directory / "adapter_model.safetensors").stat().st_size
    assert size * 0.2 < sum(m.num_bytes for m in checked.modules) < size


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj", "v_proj", "query_key_value", "w1"]},
        {"modules_to_save": ["classifier", "score"]},
        {"layers_to_transform": [0, 1, 2, 99]},
        {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"^q_proj": 100}},
        {"lora_alpha": 0},
        {"metadata": {"git_sha": "0000000"}, "lorap_emb_lr": 1e-6},
    ],
    ids=str,
)
def test_what_peft_passes_over(
    base_of: Callable[[str], Path], tmp_path: Path, fields: dict[str, Any]
) -> None:
    directory = save_adapter(base_of("llama"), tmp_path / "adapter")
    edit_config(directory, **fields)
    assert_as_peft(base_of("llama"), directory)


def test_the_table_has_the_fields_of_peft() -> None:
    assert {field.name for field in fields(peft.LoraConfig)} == {field.name for field in PEFT}


def test_each_field_stands_in_the_table_once() -> None:
    lines = [line for line in markdown().splitlines() if line.startswith("| `")]
    names = [name for line in lines for name in re.findall(r"`([^`]*)`", line.split("|")[1])]
    assert sorted(names) == sorted(FIELDS)


def test_the_page_shows_the_table(tmp_path: Path) -> None:
    text = PAGE.read_text()
    assert renew(text) == text
    copy = tmp_path / PAGE.name
    copy.write_text(text.replace("| `r` |", "| `s` |"))
    main(["--write", str(copy)])
    assert copy.read_text() == text
    with pytest.raises(ValueError, match="markers"):
        renew("no table here")
