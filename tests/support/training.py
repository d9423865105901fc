"""Small runs on the tiny base: a config, rows, and what must be equal between two runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lora_runtime.training import TrainConfig

QUESTIONS = [f"{word} {i}?" for i in range(6) for word in ("who", "how")]


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def write_rows(path: Path, rows: Sequence[Any] | None = None) -> Path:
    """Twelve chat rows if none are given; a string is written as it is."""
    rows = [chat(q, f"it is {len(q)}") for q in QUESTIONS] if rows is None else rows
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8"
    )
    return path


def make_config(base: Path, directory: Path, **fields: Any) -> TrainConfig:
    """Three steps per epoch, two epochs; a rate at which the tiny model learns.

    On the CPU, where two runs are equal bit for bit.
    """
    data = directory / "data.jsonl"
    if not data.exists():
        write_rows(data)
    defaults: dict[str, Any] = {
        "base": base,
        "data": data,
        "out": directory / "out",
        "dtype": "float32",
        "batch_size": 4,
        "epochs": 2,
        "learning_rate": 1e-2,
        "rank": 4,
        "eval_fraction": 0.0,
        "threads": 1,
        "device": "cpu",
    }
    return TrainConfig(**(defaults | fields))


def tensors(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")


def assert_same_tensors(one: Path, other: Path) -> None:
    """Bit for bit."""
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
