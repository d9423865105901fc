"""Runs one step's packed batch through the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from ..batch import StepBatch
from ..kernels.attention import AttentionPlan
from ..kernels.lora import LoraSegment, TorchAdapter
from ..kv_cache import KVCache
from .output import StepOutput
from .program_runner import ProgramRunner

if TYPE_CHECKING:
    from ..base import BaseModel


class ModelRunner(Protocol):
    """Owns the KV cache tensors and the forward. Used by the engine thread only."""

    def forward(self, batch: StepBatch) -> StepOutput: ...


def make_runner(base: BaseModel, num_blocks: int, block_size: int) -> ModelRunner:
    """The base's program where it has one, else transformers' forward."""
    if base.program is None:
        return TorchRunner(base, num_blocks, block_size)
    return ProgramRunner(
        base.program, base.kv_shapes, num_blocks, block_size, base.vocab_size, base.forward_lock)


class TorchRunner:
    """transformers' forward with loramux's projections and attention."""

    def __init__(self, base: BaseModel, num_blocks: int, block_size: int) -> None:
        self.base = base
        self.cache = KVCache(base.kv_shapes, num_blocks, block_size, base.dtype, base.device)

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> StepOutput:
        with self.base.forward_lock, self.base.state.during(self.cache, self._plan(batch), _lora_segments(batch)):
            return StepOutput.of(self.base.model(
                input_ids=self._tensor(batch.tokens).long()[None],
                position_ids=self._tensor(batch.positions).long()[None],
                logits_to_keep=self._tensor(batch.sampled_rows).long(),
                use_cache=False,
            ).logits[0])

    def _plan(self, batch: StepBatch) -> AttentionPlan:
        return AttentionPlan(
            self._tensor(batch.slots), self._tensor(batch.query_start), self._tensor(batch.context_lengths),
            self._tensor(batch.block_tables), batch.block_size)

    def _tensor(self, array: object) -> torch.Tensor:
        return torch.as_tensor(array, device=self.base.device)


def _lora_segments(batch: StepBatch) -> dict[str, list[LoraSegment]]:
    lora: dict[str, list[LoraSegment]] = {}
    for segment in batch.segments:
        adapter = segment.adapter.weights
        assert isinstance(adapter, TorchAdapter)
        for name, w in adapter.weights.items():
            scaling = w.scaling * segment.weight
            lora.setdefault(name, []).append(LoraSegment(segment.start, segment.end, w.a, w.b, scaling))
    return lora
