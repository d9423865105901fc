"""Runner of the torch backend: steps as transformers' forward runs them."""

from __future__ import annotations

import torch

from ...kernels.attention import AttentionPlan
from ...kv_cache import KVCache
from ...model.frozen import FrozenModel
from ...scheduling.batch import StepBatch, StepOutput
from .forward import module_updates, run_forward


class TorchRunner:
    """Runner on transformers' forward with loramux's attention, and adapters in its modules."""

    def __init__(self, base: FrozenModel, num_blocks: int, block_size: int) -> None:
        self.base = base
        self.cache = KVCache(base.kv_shapes, num_blocks, block_size, base.dtype, base.device)

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> StepOutput:
        rows = [
            torch.as_tensor(array, device=self.base.device)
            for array in (batch.tokens, batch.positions, batch.sampled_rows)
        ]
        with self.base.forward_lock:
            return run_forward(
                self.base,
                self.cache,
                AttentionPlan.of(batch, self.base.device),
                rows,
                module_updates(batch),
            )
