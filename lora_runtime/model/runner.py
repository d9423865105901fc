"""Runs one step's packed batch through the base."""

from __future__ import annotations

import torch

from ..base import BaseModel
from ..batch import StepBatch
from ..kv_cache import KVCache


class ModelRunner:
    """Owns the KV cache tensors and the forward. Used by the engine thread only."""

    def __init__(self, base: BaseModel, num_blocks: int, block_size: int) -> None:
        self.base = base
        self.block_size = block_size
        self.cache = KVCache(base.kv_shapes, num_blocks, block_size, base.dtype, base.device)

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> torch.Tensor:
        """Logits (rows that sample, vocab) of the step."""
        with self.base.forward_lock, self.base.state.during(self.cache, batch.attention, batch.lora):
            return self.base.model(
                input_ids=batch.token_ids[None],
                position_ids=batch.positions[None],
                logits_to_keep=batch.logit_rows,
                use_cache=False,
            ).logits[0]
