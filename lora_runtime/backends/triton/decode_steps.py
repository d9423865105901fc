"""Steps of decode rows alone, in fixed buffers: on CUDA captured once per size and replayed.

Adapters reach a graph through the slot table and the plan's buffers only, so that they can come,
change and go without a new capture, and a freed slot's memory is nowhere in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ...kernels.plan import DECODE_TILE, LoraPlan, PlanArrays, PlanBuffers, plan_tiles
from ...kv_cache import KVCache
from ...scheduling.batch import StepBatch, StepOutput
from .fused_model import FusedModel
from .lora_step import LoraStep, Overlap
from .step_buffers import StepBuffers

log = logging.getLogger(__name__)
_LEAST_PAIRS = 4
"""Adapters that the smallest steps have room for; a step of n rows has room for n. More than are
used cost every launch of a LoRA kernel a program each."""


@dataclass(frozen=True)
class StepKey:
    """Key of a captured graph: its rows, whether any may have an adapter, and whether one may
    change the lm_head: few do, and its update is the largest of all launches."""

    size: int
    lora: bool
    head: bool = False


class StepLauncher(Protocol):
    """Launcher of the device's part of a step.

    `step` must do the same for the same key each time, apart from the values that it finds in its
    buffers.
    """

    name: str

    def launch(self, key: StepKey, step: Callable[[], None]) -> None: ...


class DirectSteps:
    """Launcher that calls the step: on a CPU, and where graphs cannot be used."""

    name = "eager"

    def launch(self, key: StepKey, step: Callable[[], None]) -> None:
        step()


class GraphSteps:
    """Launcher that captures a step at the first launch of its key, and replays that from then on.

    All graphs share one memory pool: they never run at the same time, and nothing in a step
    outlives it but what is in the fixed buffers. Capturing lets other threads go on (copies of
    adapters among them): only calls of this thread that cannot be captured are errors.
    """

    name = "cuda graphs"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[StepKey, torch.cuda.CUDAGraph] = {}

    def launch(self, key: StepKey, step: Callable[[], None]) -> None:
        if key not in self._graphs:
            self._graphs[key] = self._capture(step)
        self._graphs[key].replay()

    def _capture(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            # What is done once only cannot be captured: kernels are compiled, libraries take
            # their workspaces.
            step()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                step()
        except BaseException:
            # torch's own exit does not set it back if the capture cannot be ended.
            torch.cuda.set_stream(current)
            raise
        return graph


class DecodeSteps:
    """Decode steps: `forward` for batches that `takes` accepts.

    `sizes` are the rows of the steps there are, ascending.
    """

    def __init__(
        self,
        base: FusedModel,
        cache: KVCache,
        buffers: StepBuffers,
        plans: PlanBuffers | None,
        launcher: StepLauncher,
        overlap: Overlap | None = None,
    ) -> None:
        """Take the parts. `plans` is made by `plan_buffers`; None: no row has an adapter."""
        self.base, self.cache, self.buffers, self.plans, self.launcher = (
            base,
            cache,
            buffers,
            plans,
            launcher,
        )
        self._overlap = overlap
        self._filled: PlanArrays | None = None
        self.sizes = step_sizes(buffers.rows)

    def takes(self, batch: StepBatch, arrays: PlanArrays | None) -> bool:
        """True if the batch can run here.

        `arrays`: the plan of its adapters, None where it has none.
        """
        return self.buffers.takes(batch) and (
            arrays is None or (self.plans is not None and self.plans.fits(arrays))
        )

    def forward(self, batch: StepBatch, arrays: PlanArrays | None, head: bool = True) -> StepOutput:
        """Run a batch. `head`: whether an adapter of it may change the lm_head."""
        count, pairs = len(batch.tokens), 0 if arrays is None else len(arrays.pair_slot)
        size = next(size for size in self.sizes if size >= count and _pairs(size) >= pairs)
        self.buffers.fill(batch, size)
        if arrays is not None:
            self._fill_plan(arrays)
        self._launch(StepKey(size, arrays is not None, arrays is not None and head))
        return StepOutput(self.buffers.logits[:count], self.buffers.read_greedy(count))

    def capture_all(self) -> None:
        """Launch every step once, on no sequence's rows.

        The largest first: the others then fit into its memory.
        """
        for size in reversed(self.sizes):
            self.buffers.fill_idle(size)
            self._launch(StepKey(size, False))
            if self.plans is not None:
                self._fill_plan(plan_tiles((), DECODE_TILE, lambda slot: 0))
                for head in (False, True):
                    self._launch(StepKey(size, True, head))

    def _fill_plan(self, arrays: PlanArrays) -> None:
        assert self.plans is not None
        if arrays is not self._filled:  # rows often keep their adapters from step to step
            self.plans.fill(arrays)
            self._filled = arrays

    def _launch(self, key: StepKey) -> None:
        self.launcher.launch(key, lambda: self.step(key))

    def step(self, key: StepKey) -> None:
        """Run the device's part.

        Must read nothing on the host, and nothing outside the weights, the cache, the slot table
        and the buffers.
        """
        buffers, size, frozen = self.buffers, key.size, self.base.frozen
        lora = self._lora(key) if key.lora else None
        with (
            frozen.context.during(self.cache, buffers.attention_plan(size), {}),
            self.base.lora.during(lora),
        ):
            logits = frozen.model(
                input_ids=buffers.tokens[:size].long()[None],
                position_ids=buffers.positions[:size].long()[None],
                use_cache=False,
            ).logits[0]
        buffers.store(logits, frozen.vocab_size)

    def _lora(self, key: StepKey) -> LoraStep:
        assert self.plans is not None
        plan = _first_tiles(self.plans.plan, key.size)
        # All rows sample.
        return self.base.lora_step(plan, plan if key.head else None, overlap=self._overlap)


def step_sizes(rows: int) -> list[int]:
    """Sizes of steps: powers of two up to `rows`, and that; a step of other rows is rounded up.

    A step's work is reading the weights, and the same for all of them, up to sizes where a multiple
    of 64 begins to pay.
    """
    sizes = [1 << i for i in range(7) if 1 << i < rows]
    return [*sizes, *range(128, rows, 64), rows]


def plan_buffers(rows: int, hidden_of_row: int, device: torch.device) -> PlanBuffers:
    """Make the plan's buffers for steps of up to `rows` rows, whose adapters need `hidden_of_row`
    floats of scratch on average."""
    return PlanBuffers(rows, _pairs(rows), _pairs(rows) * hidden_of_row, DECODE_TILE, device)


def _pairs(size: int) -> int:
    return max(_LEAST_PAIRS, size)


def _first_tiles(plan: LoraPlan, size: int) -> LoraPlan:
    """Cut the plan to what a step of `size` rows has use for, in the same memory."""
    parts = {
        name: getattr(plan, name)[: _pairs(size)]
        for name in ("pair_start", "pair_rows", "pair_slot", "pair_weight", "pair_hidden")
    }
    return replace(
        plan,
        tile_start=plan.tile_start[:size],
        tile_rows=plan.tile_rows[:size],
        pair_offsets=plan.pair_offsets[: size + 1],
        **parts,
    )
