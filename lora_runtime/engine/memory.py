"""Plan of the device's memory at start: weights, the largest step (measured), adapters, KV cache."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from ..api.reports import MemoryPlan
from ..api.requests import MAX_LOGPROBS, SamplingParams
from ..config import EngineConfig
from ..kv_cache import KVCache
from ..requests.sequence import Sequence
from ..sampling.sampling import sample
from ..scheduling.batch import StepBatch, StepOutput, packed

if TYPE_CHECKING:
    from ..backends.backend import ModelRunner
    from ..base_model import BaseModel

log = logging.getLogger(__name__)
_HOST_KV_BYTES = 1 << 30
_ADAPTER_SHARE = 0.2
"""Share of what weights and steps leave, where adapter_device_bytes does not say how much."""

MakeRunner = Callable[[int], "ModelRunner"]
"""Function that makes a runner, of a number of KV blocks."""


class MemoryProbe(Protocol):
    """Probe of a device's memory."""

    def sizes(self) -> tuple[int, int]:
        """Sizes (free, total) in bytes, with what is cached but unused given back first."""

    def peak(self, run: Callable[[], object]) -> int:
        """Measure the most bytes that `run` had allocated at once, beyond those before it."""


class CudaProbe:
    """Probe of torch's allocator and the driver; memory of other processes counts as taken."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def sizes(self) -> tuple[int, int]:
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)

    def peak(self, run: Callable[[], object]) -> int:
        torch.cuda.synchronize(self._device)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        run()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before


def plan_memory(
    base: BaseModel,
    config: EngineConfig,
    make_runner: MakeRunner,
    probe: MemoryProbe | None = None,
    *,
    graphs: bool = False,
) -> MemoryPlan:
    """Plan the memory: on CUDA measured, by steps of a runner that `make_runner` makes (without
    graphs); elsewhere by the settings.

    `graphs`: whether decode steps are captured: their graphs keep a step's memory beside the eager
    one's. Raises ValueError, with the numbers, when the settings and the device do not go together.
    """
    block = kv_block_bytes(base, config)
    if base.device.type == "cuda":
        probe = probe or CudaProbe(base.device)
    if probe is None:
        plan = MemoryPlan(
            adapters=config.adapter_device_bytes if config.max_adapters else 0,
            kv_cache=config.kv_cache_bytes or _HOST_KV_BYTES,
        )
    else:
        context = min(config.max_context or base.max_context, base.max_context)
        step, decode = measure_steps(base, config, context, make_runner, probe, block)
        free, total = probe.sizes()
        plan = share_out(
            config, total=total, used=total - free, steps=step, graphs=decode if graphs else 0
        )
    if plan.kv_cache < block:
        raise ValueError(
            f"the KV cache of {plan.kv_cache} bytes does not hold one block of {block} bytes: {plan}"
        )
    log.info("memory: %s", plan)
    return plan


def kv_block_bytes(base: BaseModel, config: EngineConfig) -> int:
    return KVCache.bytes_per_token(base.kv_shapes, base.dtype) * config.kv_block_size


def share_out(
    config: EngineConfig, *, total: int, used: int, steps: int, graphs: int
) -> MemoryPlan:
    """Share out what `device_memory_fraction` of `total` bytes leaves, to adapters first and then
    to the KV cache.

    Raises ValueError when that is less than the settings ask for.
    """
    left = int(config.device_memory_fraction * total) - used - steps - graphs
    share = config.adapter_device_bytes or int(_ADAPTER_SHARE * max(0, left))
    adapters = share if config.max_adapters else 0
    if config.kv_cache_bytes and not config.adapter_device_bytes:
        adapters = max(0, min(adapters, left - config.kv_cache_bytes))
    kv_cache = config.kv_cache_bytes or max(0, left - adapters)
    plan = MemoryPlan(total, used, steps, graphs, adapters, kv_cache)
    if left <= 0 or adapters + kv_cache > left or (config.max_adapters and not adapters):
        raise ValueError(
            f"the device's memory does not suffice: {plan}; device_memory_fraction {config.device_memory_fraction:g} "
            f"leaves {left} bytes for adapters and KV cache. Lower max_batch_tokens, max_running, kv_cache_bytes or "
            "adapter_device_bytes, or take a smaller base"
        )
    return plan


def measure_steps(
    base: BaseModel,
    config: EngineConfig,
    max_context: int,
    make_runner: MakeRunner,
    probe: MemoryProbe,
    block: int,
) -> tuple[int, int]:
    """Bytes that the largest step needs, with the runner's own buffers, and what of it a step of
    decode rows does.

    All rows of the largest step sample, with the options that cost most. `block`: bytes of a KV
    block. Raises ValueError when the device has no room for such a step.
    """
    rows = min(config.max_batch_tokens, max_context + config.max_running - 1)
    blocks = -(-rows // config.kv_block_size) + config.max_running
    largest = _step(
        base.vocab_size, rows, config.max_running, max_context, blocks, config.kv_block_size
    )
    decode = _step(
        base.vocab_size,
        config.max_running,
        config.max_running,
        max_context,
        blocks,
        config.kv_block_size,
    )
    sequences = _costly_sequences(config.max_running, min(max_context, base.vocab_size))
    runners: list[ModelRunner] = []

    def run() -> None:
        runners.append(make_runner(blocks))
        sample(_as_valid(runners[0].forward(largest)), sequences, base.sample_rows)
        runners[0].forward(decode)

    try:
        peak = probe.peak(run) - blocks * block
        return peak, probe.peak(lambda: runners[0].forward(decode))
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"the device has no memory for a step of {rows} rows (max_batch_tokens), {config.max_running} sequences "
            f"(max_running) and a context of {max_context}: {error}"
        ) from error


def _costly_sequences(count: int, distinct: int) -> list[Sequence]:
    """Sequences with every option that takes memory, the first with as many distinct tokens as
    there can be."""
    params = SamplingParams(
        temperature=1.0, top_p=0.9, min_p=0.1, repetition_penalty=1.1, logprobs=MAX_LOGPROBS, seed=0
    )
    nobody: Any = None
    return [
        Sequence(nobody, i, tuple(range(1 if i else distinct)), params, nobody, 1)
        for i in range(count)
    ]


def _as_valid(output: StepOutput) -> StepOutput:
    """Mark every row as valid: the logits mean nothing here, but no row may be left out."""
    return StepOutput(output.logits, [0] * len(output.greedy))


def _step(
    vocab_size: int, rows: int, sequences: int, context: int, blocks: int, block_size: int
) -> StepBatch:
    """Make a step of one sequence at its longest, the others at their first token; all sample.

    Contexts may be longer than the cache: they go round and round in its blocks, since no one reads
    the result.
    """
    counts = np.ones(sequences, np.int32)
    counts[0] = rows - sequences + 1
    contexts = np.ones(sequences, np.int32)
    contexts[0] = context
    tables = np.zeros((sequences, -(-context // block_size) + 1), np.int32)
    tables[0] = np.arange(tables.shape[1]) % (blocks - sequences + 1)
    tables[1:, 0] = np.arange(blocks - sequences + 1, blocks)
    return packed(
        (np.arange(rows) % vocab_size).astype(np.int32), counts, contexts, tables, block_size
    )
