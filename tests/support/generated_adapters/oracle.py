"""PEFT and transformers on a generated directory: what it gives, or what is wrong with it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

from .changes import WEIGHTS

_EMBEDDINGS = ("embed_tokens", "wte", "lm_head")
_OF_ROWS = (".weight", "lora_embedding_A")


@dataclass(frozen=True)
class ByPeft:
    """A base with the adapter inside; or the reason why PEFT cannot load all of it."""

    model: Any
    problem: str = ""

    @torch.inference_mode()
    def logprobs(self, ids: Sequence[int], count: int) -> torch.Tensor:
        """(count, vocabulary): of the tokens behind the last `count` of `ids`."""
        logits = self.model(input_ids=torch.tensor([list(ids)])).logits[0]
        return torch.log_softmax(logits.double(), -1)[-count:]


def by_peft(base: Any, directory: Path, headless: bool) -> ByPeft:
    """Load the directory on a copy of `base`, which has as many rows as the saved embeddings."""
    model = copy.deepcopy(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tensors = load_file(directory / WEIGHTS)
            rows = _rows(tensors, base.config.vocab_size)
            if rows != base.config.vocab_size:
                _resize(model, rows)
            config = PeftConfig.from_pretrained(str(directory))
            tuned = PeftModel(model.base_model if headless else model, config)
            keys = tuned.load_adapter(str(directory), "default")
        except Exception as error:  # PEFT has no errors of its own
            return ByPeft(None, f"{type(error).__name__}: {error}")
    model.eval()
    more = [name for name in keys.unexpected_keys if not _is_twin(name, tensors)]
    problems = [
        f"{what} {names[0]}"
        for what, names in (("missing", keys.missing_keys), ("unexpected", more))
        if names
    ]
    if any(not tensor.float().isfinite().all() for tensor in tensors.values()):
        problems.append("values that are no numbers")
    return ByPeft(model, ", ".join(problems))


def _is_twin(name: str, tensors: dict[str, torch.Tensor]) -> bool:
    """PEFT writes some saved modules twice."""
    twin = tensors.get(name.replace(".modules_to_save.", "."))
    return twin is not None and "modules_to_save" in name and torch.equal(twin, tensors[name])


@torch.no_grad()
def _resize(model: Any, rows: int) -> None:
    """New rows are the mean of the others: transformers' draws are within 1e-4 of it."""
    before = model.config.vocab_size
    model.resize_token_embeddings(rows, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight[before:] = layer.weight[:before].mean(0)


def _rows(tensors: dict[str, torch.Tensor], rows: int) -> int:
    """Rows of the model that was trained, where they are not the base's."""
    found = {
        tensor.shape[1 if "lora_embedding_A" in name else 0]
        for name, tensor in tensors.items()
        if any(f".{end}." in f".{name}" for end in _EMBEDDINGS)
        and name.endswith(_OF_ROWS)
        and not name.endswith("lora_A.weight")
        and tensor.ndim == 2
    }
    return next(iter(found - {rows}), rows)
