"""Runs one step's packed batch through the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from ..adapters.update import ModuleKind
from ..batch import AdapterSegment, StepBatch
from ..kernels.adapter import TorchAdapter
from ..kernels.attention import AttentionPlan
from ..kernels.updates import UpdateSegment
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
        base.program, base.kv_shapes, num_blocks, block_size, base.vocab_size + base.max_added_tokens,
        base.forward_lock)


class TorchRunner:
    """transformers' forward with loramux's attention, and adapters in its modules."""

    def __init__(self, base: BaseModel, num_blocks: int, block_size: int) -> None:
        self.base = base
        self.cache = KVCache(base.kv_shapes, num_blocks, block_size, base.dtype, base.device)

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> StepOutput:
        updates = self._updates(batch)
        with self.base.forward_lock, self.base.state.during(self.cache, self._plan(batch), updates):
            logits = self.base.model(
                input_ids=self._tensor(batch.tokens).long()[None],
                position_ids=self._tensor(batch.positions).long()[None],
                logits_to_keep=self._tensor(batch.sampled_rows).long(),
                use_cache=False,
            ).logits[0]
        return StepOutput.of(self._with_added(logits, updates.get(self.base.head_name, ())))

    def _plan(self, batch: StepBatch) -> AttentionPlan:
        return AttentionPlan.of(batch, self.base.device)

    def _tensor(self, array: object) -> torch.Tensor:
        return torch.as_tensor(array, device=self.base.device)


    def _updates(self, batch: StepBatch) -> dict[str, list[UpdateSegment]]:
        updates: dict[str, list[UpdateSegment]] = {}
        for segment in batch.segments:
            adapter = segment.adapter.weights
            assert isinstance(adapter, TorchAdapter)
            sampled = _sampled(segment, batch)
            for name, delta in adapter.deltas.items():
                start, end = sampled if delta.kind is ModuleKind.LM_HEAD else (segment.start, segment.end)
                if start < end:
                    updates.setdefault(name, []).append(UpdateSegment(start, end, delta, segment.weight))
        return updates

    def _with_added(self, logits: torch.Tensor, head: Sequence[UpdateSegment]) -> torch.Tensor:
        """As wide as every adapter needs it; -inf for tokens that the row's adapters do not have."""
        vocab, added = self.base.vocab_size, self.base.max_added_tokens
        if not added:
            return logits
        out = logits.new_full((logits.shape[0], vocab + added), -torch.inf)
        out[:, :vocab] = logits[:, :vocab]
        for s in head:
            out[s.start : s.end, vocab : s.delta.out] = logits[s.start : s.end, vocab : s.delta.out]
        return out


def _sampled(segment: AdapterSegment, batch: StepBatch) -> tuple[int, int]:
    """The segment's rows among those that sample."""
    start, end = np.searchsorted(batch.sampled_rows, (segment.start, segment.end))
    return int(start), int(end)
