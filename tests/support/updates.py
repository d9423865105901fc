"""Adapters of every kind made by PEFT, as ModuleUpdates, and steps that mix them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Embedding as LoraEmbedding
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn

from lora_runtime import BaseModel
from lora_runtime.adapters.peft.update import ModuleUpdate
from lora_runtime.backends.backend import ModelRunner
from lora_runtime.modules import BaseModule
from lora_runtime.scheduling.batch import AdapterSegment, StepBatch

BLOCK_SIZE, BLOCKS = 16, 2  # of each sequence


def random_adapter(model: nn.Module, seed: int, **lora: Any) -> PeftModel:
    """A PEFT model on a copy of `model`, everything that is trained moved at random."""
    peft_model = get_peft_model(copy.deepcopy(model), LoraConfig(task_type="CAUSAL_LM", **lora))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return peft_model.eval()


def tuned_of(peft_model: PeftModel) -> nn.Module:
    """The base's model inside, whose modules PEFT has replaced."""
    model = peft_model.base_model.model
    assert isinstance(model, nn.Module)
    return model


def updates_of(
    peft_model: PeftModel, model: nn.Module, modules: Mapping[str, BaseModule]
) -> dict[str, ModuleUpdate]:
    """What the PEFT model changes in `modules` of the base `model`, tensors as they are in it."""
    found = {}
    for name in modules:
        update = _update(tuned_of(peft_model).get_submodule(name), model.get_submodule(name))
        if any(getattr(update, part) is not None for part in ("a", "weight", "bias", "token_rows")):
            found[name] = update
    return found


def _update(ours: Any, base: Any) -> ModuleUpdate:
    if isinstance(ours, ModulesToSaveWrapper):
        saved = ours.modules_to_save["default"]
        return ModuleUpdate(weight=saved.weight.detach(), bias=_tensor(saved, "bias"))
    if isinstance(ours, TrainableTokensWrapper):
        tokens = ours.token_adapter
        return ModuleUpdate(
            token_ids=tuple(tokens.token_indices["default"]),
            token_rows=tokens.trainable_tokens_delta["default"].detach(),
        )
    if not isinstance(ours, LoraLayer):
        return ModuleUpdate(
            bias=_changed(ours, base, "bias"), weight=_changed(ours, base, "weight")
        )
    layer: Any = ours  # whose attributes have no types
    magnitude = (
        layer.lora_magnitude_vector["default"].weight.detach()
        if layer.lora_magnitude_vector
        else None
    )
    if isinstance(ours, LoraEmbedding):
        a, b, lora_bias = ours.lora_embedding_A["default"], ours.lora_embedding_B["default"], None
    else:
        a, b = ours.lora_A["default"].weight, ours.lora_B["default"].weight
        lora_bias = _tensor(ours.lora_B["default"], "bias")
    return ModuleUpdate(
        a.detach(),
        b.detach(),
        ours.scaling["default"],
        lora_bias,
        magnitude,
        bias=_changed(ours, base, "bias"),
    )


def _tensor(module: Any, name: str) -> torch.Tensor | None:
    tensor = getattr(module, name, None)
    return None if tensor is None else tensor.detach()


def _changed(ours: Any, base: Any, name: str) -> torch.Tensor | None:
    own = _tensor(getattr(ours, "base_layer", ours), name)
    return own if own is not None and not torch.equal(own, getattr(base, name)) else None


class _Composed(nn.Module):
    def __init__(self, base: nn.Module, adapters: Sequence[tuple[nn.Module, float]]) -> None:
        super().__init__()
        self.base, self.weights = base, [weight for _, weight in adapters]
        self.adapters = nn.ModuleList([module for module, _ in adapters])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        return y + sum(
            w * (adapter(x) - y) for w, adapter in zip(self.weights, self.adapters, strict=True)
        )


def composed(
    model: nn.Module, modules: Mapping[str, BaseModule], adapters: Sequence[tuple[PeftModel, float]]
) -> nn.Module:
    """The definition of a composition in float64: every module gives base + sum w_i (adapter_i -
    base)."""
    out = copy.deepcopy(model)
    for name in modules:
        parent, _, child = name.rpartition(".")
        parts = [(copy.deepcopy(tuned_of(p).get_submodule(name)), weight) for p, weight in adapters]
        setattr(out.get_submodule(parent), child, _Composed(model.get_submodule(name), parts))
    return copy.deepcopy(out).double()


@dataclass(frozen=True)
class Row:
    """One sequence of a mixed step: its tokens, and its adapters with their weights."""

    tokens: list[int]
    adapters: Sequence[tuple[Any, float]] = ()


def run(runner: ModelRunner, rows: Sequence[Row]) -> list[torch.Tensor]:
    """Logits per sequence of its last tokens: all but the last three in one step, of which two
    sample, then each.

    Runs of equal adapters share a segment.
    """
    cuts = [len(row.tokens) - 3 for row in rows]
    spans = [
        [(0, cut) for cut in cuts],
        *([(cut + i, cut + i + 1) for cut in cuts] for i in range(3)),
    ]
    outputs: list[list[torch.Tensor]] = [[] for _ in rows]
    for step, span in enumerate(spans):
        sampled = 2 if step == 0 else 1
        logits = runner.forward(_batch(rows, span, sampled)).logits.clone()
        for i in range(len(rows)):
            outputs[i].append(logits[i * sampled : (i + 1) * sampled])
    return [torch.cat(parts) for parts in outputs]


POSITIONS = 5  # that `run` gives logits of


def make_adapter(base: BaseModel, updates: Mapping[str, ModuleUpdate]) -> Any:
    """As a segment of a batch holds it."""
    return base.place_adapter(base.stage_adapter(updates))


def _batch(rows: Sequence[Row], spans: Sequence[tuple[int, int]], sampled: int) -> StepBatch:
    counts = [end - start for start, end in spans]
    starts = np.cumsum([0, *counts]).astype(np.int32)
    positions = np.concatenate([np.arange(*span) for span in spans]).astype(np.int32)
    owner = np.repeat(np.arange(len(rows)), counts)
    tables = np.arange(len(rows) * BLOCKS, dtype=np.int32).reshape(-1, BLOCKS)
    segments = [
        AdapterSegment(int(starts[i]), int(starts[i + 1]), adapter, weight)
        for i, row in enumerate(rows)
        for adapter, weight in row.adapters
    ]
    return StepBatch(
        tokens=np.array(
            [t for r, span in zip(rows, spans, strict=True) for t in r.tokens[slice(*span)]],
            np.int32,
        ),
        positions=positions,
        query_start=starts,
        block_tables=tables,
        block_size=BLOCK_SIZE,
        slots=(tables[owner, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE).astype(
            np.int32
        ),
        context_lengths=np.array([end for _, end in spans], np.int32),
        segments=_joined(segments),
        sampling=(),
        sampled_rows=np.concatenate([np.arange(end - sampled, end) for end in starts[1:]]).astype(
            np.int32
        ),
        distinct_adapters=len(segments),
    )


def _joined(segments: Sequence[AdapterSegment]) -> list[AdapterSegment]:
    out: list[AdapterSegment] = []
    for s in segments:
        if (
            out
            and out[-1].adapter is s.adapter
            and (out[-1].end, out[-1].weight) == (s.start, s.weight)
        ):
            s = AdapterSegment(out.pop().start, s.end, s.adapter, s.weight)
        out.append(s)
    return out
