"""Random PEFT adapters, written by PEFT itself, and ways to damage them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lora_runtime.adapters.peft.safetensors_file import TensorFile, open_tensors


def save_adapter(
    base: Path,
    directory: Path,
    seed: int = 0,
    config: PeftConfig | None = None,
    added_tokens: int = 0,
    save: Mapping[str, Any] | None = None,
    **lora: Any,
) -> Path:
    """An adapter with random A and B (PEFT's own start has B = 0, which would hide errors).

    `added_tokens`: below 0 for fewer than the base's; `save`: options of save_pretrained.
    """
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if added_tokens:
        model.resize_token_embeddings(model.config.vocab_size + added_tokens)
    fields: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"], **lora}
    config = config or LoraConfig(task_type="CAUSAL_LM", **fields)
    peft_model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.15, generator=generator)
    peft_model.save_pretrained(str(directory), **(save or {}))
    return directory


def edit_config(directory: Path, **fields: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(
    directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    path = directory / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def open_files() -> list[str]:
    """Of this process, on disk: a reader must leave none behind. Sockets and pipes come and go with
    threads that earlier tests left."""
    found = []
    for descriptor in os.scandir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(descriptor.path))
    return sorted(path for path in found if path.startswith("/"))


def read_tensors(path: Path, max_bytes: int) -> TensorFile:
    """All of a file, header and data."""
    with open_tensors(path, max_bytes) as file:
        return file.read()
