"""Runs one step's packed batch through the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from ...kernels.attention import AttentionPlan
from ...kv_cache import KVCache
from ...scheduling.batch import StepBatch
from ...scheduling.step_output import StepOutput
from ..cpp.runner import ProgramRunner
from ..triton.runner import DeviceRunner
from .forward import module_updates, run_forward

if TYPE_CHECKING:
    from ...base_model import BaseModel


class ModelRunner(Protocol):
    """Owns the KV cache tensors and the forward. Used by the engine thread only."""

    def forward(self, batch: StepBatch) -> StepOutput: ...


def make_runner(base: BaseModel, num_blocks: int, block_size: int, *, max_running: int = 64, max_context: int = 0,
                cuda_graphs: bool = True, lora_overlap: bool = False) -> ModelRunner:
    """The base's program where it has one, the planned kernels where they were chosen, else transformers' forward.

    `max_running`, `max_context` (0: what base and blocks allow), `cuda_graphs`, `lora_overlap`: see EngineConfig.
    """
    if base.group is not None:
        from ..tensor_parallel.runner import ParallelRunner

        return ParallelRunner(TorchRunner(base, num_blocks, block_size), base.group, num_blocks, block_size)
    if base.program is not None:
        return ProgramRunner(
            base.program, base.kv_shapes, num_blocks, block_size, base.vocab_size + base.max_added_tokens,
            base.forward_lock)
    if base.state.kernels.update_group is not None:
        return DeviceRunner(
            base, num_blocks, block_size, max_running=max_running, cuda_graphs=cuda_graphs, lora_overlap=lora_overlap,
            max_context=max_context or min(base.max_context, num_blocks * block_size))
    return TorchRunner(base, num_blocks, block_size)


class TorchRunner:
    """transformers' forward with loramux's attention, and adapters in its modules."""

    def __init__(self, base: BaseModel, num_blocks: int, block_size: int) -> None:
        self.base = base
        self.cache = KVCache(base.kv_shapes, num_blocks, block_size, base.dtype, base.device)

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> StepOutput:
        rows = [torch.as_tensor(array, device=self.base.device)
                for array in (batch.tokens, batch.positions, batch.sampled_rows)]
        with self.base.forward_lock:
            return run_forward(
                self.base, self.cache, AttentionPlan.of(batch, self.base.device), rows, module_updates(batch))
