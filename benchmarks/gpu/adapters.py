"""Many adapters on disk for little: their tensors are drawn and written once."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.gpu.bases import random_updates
from benchmarks.gpu.cost import Shape
from lora_runtime import BaseModel


def write_adapters(
    directory: Path, base: BaseModel, shape: Shape, rank: int, count: int
) -> list[Path]:
    """`count` PEFT directories of `rank` on every projection, which differ in their alpha, so that
    each is an adapter of its own to a server; the file of tensors is one, linked."""
    tensors = {}
    for name, update in random_updates(base, shape, rank).items():
        for part, tensor in (("A", update.a), ("B", update.b)):
            assert tensor is not None
            tensors[f"base_model.model.{name}.lora_{part}.weight"] = tensor.cpu()
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    paths = [directory / f"adapter-{i:03}" for i in range(count)]
    for i, path in enumerate(paths):
        path.mkdir()
        os.link(directory / "adapter_model.safetensors", path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(
            json.dumps(
                {
                    "peft_type": "LORA",
                    "task_type": "CAUSAL_LM",
                    "base_model_name_or_path": shape.name,
                    "r": rank,
                    "lora_alpha": 2 * rank + i,
                    "target_modules": sorted(shape.projections),
                    "bias": "none",
                    "lora_dropout": 0.0,
                    "fan_in_fan_out": False,
                    "inference_mode": True,
                }
            )
        )
    return paths
