"""Workloads: prompts, adapters and who asks for which. Deterministic: the same on every machine and
in every run."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from .paths import ARTIFACTS

TEXT = Path(__file__).parent / "prompts.txt"

POPULARITIES = ("base", "identical", "uniform", "zipf-1.5", "distinct")
_PROMPT_STRIDE = 13
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_B_STD = 0.1
"""Large enough that adapters write different texts, small enough that they stay English."""


@dataclass(frozen=True)
class Workload:
    """`requests` requests submitted at once, each `prompt_len` tokens in and exactly `output_len`
    tokens out."""

    name: str
    requests: int
    prompt_len: int = 64
    output_len: int = 64
    popularity: str = "distinct"
    num_adapters: int = 32
    """How many there are to choose from, except for base (none) and identical (one)."""
    ranks: tuple[int, ...] = (16,)
    """Adapter i has rank ranks[i % len(ranks)]."""
    seed: int = 0

    def assigned(self) -> list[str]:
        """Each request's adapter; "" is the base model."""
        picks = choose(self.popularity, self.requests, self.num_adapters, self.seed)
        return ["" if i is None else self.adapter_name(i) for i in picks]

    def adapter_name(self, index: int) -> str:
        return f"r{self.ranks[index % len(self.ranks)]}-{index:04d}"

    def prompts(self, model: Path) -> list[list[int]]:
        """Windows of English text; each begins at another token, so that no two share a prefix."""
        return [prompt(model, i, self.prompt_len) for i in range(self.requests)]


def choose(popularity: str, requests: int, num_adapters: int, seed: int = 0) -> list[int | None]:
    """Each request's adapter number, None for the base model."""
    rng = random.Random(seed)
    if popularity == "base":
        return [None] * requests
    if popularity == "identical":
        return [0] * requests
    if popularity == "distinct":
        return [i % num_adapters for i in range(requests)]
    if popularity == "uniform":
        return [rng.randrange(num_adapters) for _ in range(requests)]
    if popularity.startswith("zipf-"):
        exponent = float(popularity.removeprefix("zipf-"))
        weights = [1 / (k + 1) ** exponent for k in range(num_adapters)]
        return list(rng.choices(range(num_adapters), weights, k=requests))
    raise ValueError(f"popularity {popularity!r} is none of {', '.join(POPULARITIES)}")


def prompt(model: Path, index: int, length: int) -> list[int]:
    """Prompt number `index`."""
    tokens = _text_tokens(model)
    start = index * _PROMPT_STRIDE % len(tokens)
    repeated = tokens[start:] + tokens * (length // len(tokens) + 1)
    return repeated[:length]


@cache
def _text_tokens(model: Path) -> list[int]:
    return list(Tokenizer.from_file(str(model / "tokenizer.json")).encode(TEXT.read_text()).ids)


# --- adapters ---------------------------------------------------------------------------------------


def adapter_dir(name: str, model: Path) -> Path:
    """The PEFT directory of adapter `name`, written at its first use.

    "r16-0003": rank 16 on all projections; "qv8-0003": rank 8 on q and v.
    """
    directory = ARTIFACTS / "adapters" / model.name / name
    if not directory.is_dir():
        kind, index = name.split("-")
        targets = _TARGETS if kind.startswith("r") else ("q_proj", "v_proj")
        # Under a temporary name first: a killed run leaves nothing half done.
        scratch = directory.with_name(f".{name}-{os.getpid()}")
        write_adapter(scratch, model, int(kind.lstrip("rqv")), int(index), targets)
        scratch.rename(directory)
    return directory


def write_adapter(
    directory: Path, model: Path, rank: int, seed: int, targets: tuple[str, ...]
) -> None:
    """Random A and B, B not zero, for these projections of each Llama layer."""
    directory.mkdir(parents=True, exist_ok=True)
    base = json.loads((model / "config.json").read_text())
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(base["num_hidden_layers"]):
        for module, (inputs, outputs) in _shapes(base).items():
            if module.partition(".")[2] not in targets:
                continue
            key = f"base_model.model.model.layers.{layer}.{module}"
            a = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            # The update's size must not depend on the rank.
            b = torch.randn(outputs, rank, generator=generator) * (_B_STD / rank**0.5)
            tensors[f"{key}.lora_A.weight"] = a.to(torch.bfloat16)
            tensors[f"{key}.lora_B.weight"] = b.to(torch.bfloat16)
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": model.name,
                "r": rank,
                "lora_alpha": 2 * rank,
                "target_modules": list(targets),
                "bias": "none",
                "lora_dropout": 0.0,
                "fan_in_fan_out": False,
                "inference_mode": True,
            },
            indent=1,
        )
    )


def _shapes(base: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Module → (inputs, outputs) of one layer."""
    hidden, mlp = base["hidden_size"], base["intermediate_size"]
    queries, keys = (
        base[n] * base["head_dim"] for n in ("num_attention_heads", "num_key_value_heads")
    )
    sizes = [
        (hidden, queries),
        (hidden, keys),
        (hidden, keys),
        (queries, hidden),
        (hidden, mlp),
        (hidden, mlp),
        (mlp, hidden),
    ]
    owners = ["self_attn"] * 4 + ["mlp"] * 3
    return {
        f"{owner}.{name}": size for owner, name, size in zip(owners, _TARGETS, sizes, strict=True)
    }


def non_embedding_parameters(model: Path) -> int:
    """Weights of the layers' projections: what one token is multiplied with, without embedding and
    lm_head."""
    base = json.loads((model / "config.json").read_text())
    return int(base["num_hidden_layers"]) * sum(i * o for i, o in _shapes(base).values())
