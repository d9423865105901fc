"""Writing a recipe's directory: PEFT saves an adapter with random values, then it is changed."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

from lora_runtime.adapters.peft.fields import HARMLESS_INIT

from .changes import CHANGES, NAMES, SHARDS, WEIGHTS, write_file
from .fields import DROP
from .recipes import Recipe
from .tokenizers import write_tokenizer

CONFIG = "adapter_config.json"


def write(recipe: Recipe, base: Any, tokenizer: Any, root: Path) -> tuple[Path, Path]:
    """Write the directory, and beside it the one that it stands for, with PEFT's own names and one
    file of tensors. `base` is left alone."""
    plain, directory = root / "plain", root / "adapter"
    _save(recipe, base, plain)
    _edit_config(plain / CONFIG, recipe)
    tensors = load_file(plain / WEIGHTS)
    generator = torch.Generator().manual_seed(recipe.seed)
    for change in recipe.tensors:
        tensors = CHANGES[change](tensors, generator)
    write_file(tensors, plain / WEIGHTS)
    directory.mkdir()
    text = (plain / CONFIG).read_text()
    (directory / CONFIG).write_text(text)
    (plain / CONFIG).write_text(json.dumps(_as_peft_reads(json.loads(text))))
    named = {NAMES[recipe.names](name): tensor for name, tensor in tensors.items()}
    SHARDS[recipe.shards](named, directory)
    write_tokenizer(recipe.tokenizer, tokenizer, directory)
    return directory, plain


def _as_peft_reads(config: dict[str, Any]) -> dict[str, Any]:
    """Null is unset, which not all fields of PEFT's class can be; and how training began, which
    PEFT does not take beside every other field, is over."""
    if str(config.get("init_lora_weights")).lower() in HARMLESS_INIT:
        config["init_lora_weights"] = True
    return {name: value for name, value in config.items() if value is not None}


def _save(recipe: Recipe, base: Any, directory: Path) -> None:
    """By PEFT. Fields that it refuses are written into a plain adapter's config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _save_by_peft(recipe, base, directory, dict(recipe.lora))
        except Exception:  # whatever PEFT says: the same fields are then held against it loading
            kept = {name: recipe.lora[name] for name in ("r",)}
            target = ["c_attn"] if recipe.base == "gpt2" else ["q_proj", "v_proj"]
            plain = {"target_modules": target, "task_type": "CAUSAL_LM", **kept}
            _save_by_peft(recipe, base, directory, plain)
            path = directory / CONFIG
            path.write_text(json.dumps(json.loads(path.read_text()) | dict(recipe.lora)))


def _save_by_peft(recipe: Recipe, base: Any, directory: Path, lora: dict[str, Any]) -> None:
    torch.manual_seed(recipe.seed)
    model: Any = copy.deepcopy(base)
    if recipe.rows:
        model.resize_token_embeddings(model.config.vocab_size + recipe.rows)
    if recipe.headless:
        model = model.base_model
    tuned = PeftModel(model, LoraConfig(**lora))
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():  # PEFT's own start has B = 0
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.15, generator=generator)
    tuned.save_pretrained(str(directory), save_embedding_layers=recipe.save_embeddings)


def _edit_config(path: Path, recipe: Recipe) -> None:
    config = json.loads(path.read_text())
    for name, value in recipe.config.items():
        if value == DROP:
            config.pop(name, None)
        else:
            config[name] = value
    path.write_text(json.dumps(config))
