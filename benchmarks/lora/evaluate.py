"""Held-out loss and exact answers of a model, and of adapters that loramux serves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoTokenizer

from lora_runtime import Engine, EngineConfig, Request, SamplingParams, WeightedAdapter
from lora_runtime.model.loading import eos_ids
from lora_runtime.training.batches import IGNORED, collate
from lora_runtime.training.data import Row
from lora_runtime.training.encoding import Encoder, Example

from . import data

_BATCH = 16


@dataclass(frozen=True)
class Score:
    """`loss`: mean over completion tokens, in nats. `exact`: share of rows whose greedy answer is
    the right one."""

    loss: float
    exact: float


def examples(base: Path, model: Any, task: str, split: str, count: int) -> list[Example]:
    """The first `count` rows, tokenized as `train()` does it."""
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    encoder = Encoder(
        tokenizer, eos_ids(model, tokenizer), model.get_input_embeddings().weight.shape[0]
    )
    rows = data.rows(task, split)[:count]
    return [
        encoder.encode(Row(i, r.prompt, r.completion), f"{task} row {i}")
        for i, r in enumerate(rows)
    ]


@torch.no_grad()
def score(model: Any, held_out: Sequence[Example]) -> Score:
    """One forward over prompts and right answers.

    The greedy answer is the right one exactly if the best token is the right one at every place of
    it.
    """
    training = model.training
    model.eval()
    loss, exact = 0.0, 0
    for start in range(0, len(held_out), _BATCH):
        rows = held_out[start : start + _BATCH]
        batch = collate(rows, model.device)
        labels = batch.pop("labels")
        first = min(e.start for e in rows) - 1
        places = torch.arange(first, labels.shape[1] - 1)
        logits = model(**batch, use_cache=False, logits_to_keep=places).logits.float()
        wanted = labels[:, first + 1 :]
        loss += float(
            functional.cross_entropy(
                logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
            )
        )
        exact += int(((logits.argmax(-1) == wanted) | (wanted == IGNORED)).all(-1).sum())
    model.train(training)
    return Score(loss / sum(len(e.ids) - e.start for e in held_out), exact / len(held_out))


def updates(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(A, scaling x B) of every module of an adapter that `train()` wrote, by the module's path."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    found = {}
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[name.replace("lora_A", "lora_B")]
            kind = path.rpartition(".")[2]
            rank = config["rank_pattern"].get(kind, config["r"])
            found[path] = (a, config["alpha_pattern"].get(kind, config["lora_alpha"]) / rank * b)
    return found


@contextmanager
def merged(model: Any, adapters: Sequence[tuple[Path, float]]) -> Iterator[None]:
    """The model with the weighted sum of adapters in its weights; afterwards it is what it was, bit
    for bit."""
    kept: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for adapter, weight in adapters:
            for path, (a, b) in updates(adapter).items():
                parameter = model.get_submodule(path).weight
                kept.setdefault(path, parameter.detach().clone())
                parameter += (weight * b @ a).to(parameter.dtype)
        try:
            yield
        finally:
            for path, tensor in kept.items():
                model.get_submodule(path).weight.copy_(tensor)


def served(
    base: Path,
    adapters: Sequence[Path],
    requests: Sequence[tuple[Sequence[tuple[int, float]], str]],
    threads: int,
    limit: int = 32,
) -> list[str]:
    """Greedy answers of loramux's engine; a request is ((index of an adapter, weight), ...) and a
    prompt."""
    # All wait at once, perhaps for one adapter: it may have half of the queue.
    config = EngineConfig(
        threads=threads, max_adapters=max(len(adapters), 1), max_waiting=2 * len(requests)
    )
    with Engine(base, config) as engine:
        for i, adapter in enumerate(adapters):
            engine.load_adapter(adapter, adapter_id=str(i))
        handles = [
            engine.submit(
                Request(
                    prompt=prompt,
                    adapters=tuple(WeightedAdapter(str(i), w) for i, w in mix),
                    sampling=SamplingParams(max_new_tokens=limit),
                )
            )
            for mix, prompt in requests
        ]
        return [handle.result().text for handle in handles]
