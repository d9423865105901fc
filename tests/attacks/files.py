"""Ways to make a good adapter hostile. All of it is data: no code of it may run."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .ground import Ground

Make = Callable[[Path, Ground], None]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TEMPLATE_FILE = "chat_template.jinja"
INVOCATION = [253, 254, 260]
"""Tokens of activated LoRAs, which nobody else has in a row."""


def config(**fields: Any) -> Make:
    """Fields of adapter_config.json."""

    def make(directory: Path, _: Ground) -> None:
        path = directory / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return make


def text(name: str, content: str) -> Make:
    """A file as it is here."""

    def make(directory: Path, _: Ground) -> None:
        (directory / name).write_text(content)

    return make


def template(content: str) -> Make:
    return text(TEMPLATE_FILE, content)


def tokenizer(**sections: Any) -> Make:
    """The base's tokenizer.json with other sections; the template differs, so that it is the adapter's own."""

    def make(directory: Path, ground: Ground) -> None:
        content = json.loads((ground.base / "tokenizer.json").read_text()) | sections
        (directory / "tokenizer.json").write_text(json.dumps(content))
        own = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
        (directory / "tokenizer_config.json").write_text(json.dumps(own))
        (directory / TEMPLATE_FILE).write_text("{{ messages[0].content }} ")

    return make


def scaled(factor: float, **fields: Any) -> Make:
    """B times `factor`: every value of the file is finite, what is computed with it may not be."""

    def make(directory: Path, ground: Ground) -> None:
        tensors = load_file(directory / WEIGHTS)
        tensors = {n: t * (factor if ".lora_B." in n else 1) for n, t in tensors.items()}
        save_file(tensors, directory / WEIGHTS)
        config(**fields)(directory, ground)

    return make


def filled(value: float) -> Make:
    def make(directory: Path, _: Ground) -> None:
        tensors = load_file(directory / WEIGHTS)
        save_file({n: torch.full_like(t, value) for n, t in tensors.items()}, directory / WEIGHTS)

    return make


def header(content: str, length: int | None = None) -> Make:
    """A safetensors file that is a header and no data."""
    data = content.encode()

    def make(directory: Path, _: Ground) -> None:
        size = struct.pack("<Q", len(data) if length is None else length)
        (directory / WEIGHTS).write_bytes(size + data)

    return make


def sparse_tensors(size: int) -> Make:
    """One tensor of zeros that takes no room on disk and fits no module."""
    count = size // 4
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    one = {"dtype": "F32", "shape": [count], "data_offsets": [0, count * 4]}
    data = json.dumps({name: one}).encode()

    def make(directory: Path, _: Ground) -> None:
        with (directory / WEIGHTS).open("wb") as f:
            f.write(struct.pack("<Q", len(data)) + data)
            f.truncate(8 + len(data) + count * 4)

    return make


def sparse(name: str, size: int) -> Make:
    def make(directory: Path, _: Ground) -> None:
        with (directory / name).open("wb") as f:
            f.truncate(size)

    return make


def link(name: str, target: str) -> Make:
    def make(directory: Path, _: Ground) -> None:
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(target)

    return make


def fifo(name: str) -> Make:
    """A file that whoever opens it waits at."""

    def make(directory: Path, _: Ground) -> None:
        (directory / name).unlink(missing_ok=True)
        os.mkfifo(directory / name)

    return make
