"""Adapter directories that a storm breaks: copies of good ones with one thing wrong."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def break_copy(source: Path, target: Path, rng: random.Random) -> Path:
    """A copy of `source` that no engine may accept."""
    shutil.copytree(source, target)
    rng.choice(_DAMAGES)(target, rng)
    return target


def swap(source: Path, target: Path) -> None:
    """Give the directory `target` another content while an engine knows the old one."""
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(source / name, target / name)


def truncate(directory: Path, rng: random.Random) -> None:
    path = directory / WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(max(1, len(data)))])


def _insert_nan(directory: Path, rng: random.Random) -> None:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice([float("nan"), float("inf")])
        return tensor

    _edit_one(directory, rng, change)


def _cut_row(directory: Path, rng: random.Random) -> None:
    _edit_one(directory, rng, lambda tensor: tensor[1:].clone())


def _drop_tensor(directory: Path, rng: random.Random) -> None:
    _edit_one(directory, rng, lambda tensor: None)


def _edit_one(
    directory: Path, rng: random.Random, change: Callable[[torch.Tensor], torch.Tensor | None]
) -> None:
    path = directory / WEIGHTS
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    changed = change(tensors.pop(name).clone())
    if changed is not None:
        tensors[name] = changed
    save_file(tensors, path)


def _remove_file(directory: Path, rng: random.Random) -> None:
    (directory / rng.choice((CONFIG, WEIGHTS))).unlink()


def _misstate_rank(directory: Path, rng: random.Random) -> None:
    path = directory / CONFIG
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"r": config["r"] + 1}))


_DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    truncate,
    _insert_nan,
    _cut_row,
    _drop_tensor,
    _remove_file,
    _misstate_rank,
)
