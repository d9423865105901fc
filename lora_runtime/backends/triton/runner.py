"""Runner of the Triton backend: adapters in slots, decode steps in fixed buffers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from ...kernels.attention import AttentionPlan
from ...kernels.host_to_device import upload_packed
from ...kernels.plan import (
    DECODE_TILE,
    PREFILL_TILE,
    LoraPlan,
    PlanArrays,
    PlanBuffers,
    SlotSegment,
    hidden_per_row,
    plan_tiles,
)
from ...kv_cache import KVCache
from ...scheduling.batch import AdapterSegment, StepBatch, StepOutput, packed
from ..backend import RunnerSpec
from ..streams import side_of
from ..torch.forward import module_updates, run_forward, sampled_range
from .decode_steps import DecodeSteps, DirectSteps, GraphSteps, StepLauncher, plan_buffers
from .fused_model import FusedModel
from .lora_step import LoraStep, Overlap
from .placement import SlotAdapter
from .step_buffers import StepBuffers

log = logging.getLogger(__name__)
_BUFFER_RANK = 256
"""Rank, on average, for which decode steps in fixed buffers have room between A and B; more runs on
tensors of its own."""


class TritonRunner:
    """Owner of the KV cache and the steps' buffers. Used by the engine thread only.

    Steps of decode rows run in DecodeSteps. All others run as the same forward on tensors of their
    own: so do those with a change that the Triton backend's kernels cannot make (of embeddings,
    norms, rows of single tokens, vocabularies of another size) and those that the buffers do not hold.
    """

    def __init__(self, base: FusedModel, spec: RunnerSpec) -> None:
        self.base, self.frozen = base, base.frozen
        frozen, device, block_size = base.frozen, base.frozen.device, spec.block_size
        # One block more, for the rows of fixed buffers that no sequence has.
        self.cache = KVCache(
            frozen.kv_shapes, spec.num_blocks + 1, block_size, frozen.dtype, device
        )
        self._groups = [linear.group for linear in base.linears]
        self._group_of = {name: linear.names for linear in base.linears for name in linear.names}
        self._per_rank = {
            tile: hidden_per_row(1, self._groups, tile) for tile in (DECODE_TILE, PREFILL_TILE)
        }
        """Floats of scratch that a row needs for each rank, by tile size."""
        self._planned: tuple[object, ...] = ()
        self._arrays: PlanArrays | None = None
        halves = base.kernels.halves
        self._overlap = Overlap(side_of(device), *halves) if spec.lora_overlap and halves else None
        max_context = spec.max_context or min(frozen.max_context, spec.num_blocks * block_size)
        buffers = StepBuffers(
            spec.max_running,
            -(-max_context // block_size),
            block_size,
            spec.num_blocks,
            frozen.vocab_size + frozen.max_added_tokens,
            device,
        )
        self._takes_adapters = base.placer.slots > 0
        plans = (
            None
            if not self._takes_adapters
            else plan_buffers(spec.max_running, _BUFFER_RANK * self._per_rank[DECODE_TILE], device)
        )
        self.decode = DecodeSteps(base, self.cache, buffers, plans, DirectSteps(), self._overlap)
        if device.type == "cuda":
            self.compile_kernels()
        if spec.cuda_graphs and device.type == "cuda":
            if reason := base.why_not_captured():
                log.warning("no CUDA graphs: %s", reason)
            else:
                self._capture(GraphSteps(device))

    @torch.inference_mode()
    def compile_kernels(self) -> None:
        """Launch every kernel once: compiled beside streams, it would stall them all for seconds.

        One step with a chunk and one of decode rows alone, in a KV block that no sequence has.
        Their LoRA plans have no tile in use, so that no slot is read: it may be another engine's.
        """
        buffers, device = self.decode.buffers, self.frozen.device
        rows = min(PREFILL_TILE, buffers.width * buffers.block_size, self.frozen.max_context)
        with self.frozen.forward_lock, _current(device):
            for tile_size, counts in ((PREFILL_TILE, (rows, 1)), (DECODE_TILE, (1, 1))):
                lora = None
                if self._takes_adapters:
                    plan = PlanBuffers(1, 1, 1, tile_size, device).plan
                    lora = self.base.lora_step(plan, plan, overlap=self._overlap)
                self._forward(_scratch_batch(counts, buffers), lora)

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> StepOutput:
        with self.frozen.forward_lock, _current(self.frozen.device):
            self.base.placer.flush()
            adapters = _adapters(batch)
            rare = frozenset[str]().union(*(adapter.rare for adapter in adapters))
            decode = len(batch.tokens) == len(batch.context_lengths)
            arrays = self._plan(batch.segments, DECODE_TILE if decode else PREFILL_TILE)
            # Attention that plans on the host needs a step's own arrays there.
            fixed = not rare and self.base.kernels.captures
            if fixed and self.decode.takes(batch, arrays):
                for adapter in adapters:
                    adapter.wait()
                head = any(self.frozen.head_name in adapter.names for adapter in adapters)
                return self.decode.forward(batch, arrays, head)
            return self._forward(batch, self._lora(batch, arrays, adapters), adapters, rare)

    def _forward(
        self,
        batch: StepBatch,
        lora: LoraStep | None,
        adapters: Sequence[SlotAdapter] = (),
        rare: frozenset[str] = frozenset(),
    ) -> StepOutput:
        """Run the forward on tensors of the batch's own size."""
        device = self.frozen.device
        there = upload_packed(
            (
                batch.tokens,
                batch.positions,
                batch.sampled_rows,
                batch.slots,
                batch.query_start,
                batch.context_lengths,
                batch.block_tables,
            ),
            device,
        )
        rows = there[:3]
        slots, query_start, context_lengths, block_tables = there[3:]
        plan = AttentionPlan(
            slots,
            query_start,
            context_lengths,
            block_tables,
            batch.block_size,
            decode_rows=int((np.diff(batch.query_start) == 1).sum()),
            host=batch,
        )
        # What one adapter's module needs of the hooks, all adapters' does, and that of modules
        # fused with it.
        by_hook = frozenset(n for name in rare for n in self._group_of.get(name, (name,)))
        if rare:
            for adapter in adapters:
                adapter.wait()
        with self.base.lora.during(lora):
            return run_forward(self.frozen, self.cache, plan, rows, module_updates(batch, by_hook))

    def _lora(
        self, batch: StepBatch, arrays: PlanArrays | None, adapters: Sequence[SlotAdapter]
    ) -> LoraStep | None:
        if arrays is None:
            return None
        plan = arrays.to(self.frozen.device)
        head: LoraPlan | None = plan
        if len(batch.sampled_rows) != len(batch.tokens):
            sampled = [
                SlotSegment(*sampled_range(s, batch), slot_adapter(s).slot, s.weight)
                for s in batch.segments
            ]
            rows = [row for row in sampled if row.start < row.end]
            head = self._tiles(rows, arrays.tile_size).to(self.frozen.device) if rows else None
        touched = frozenset[str]().union(*(adapter.names for adapter in adapters))
        return self.base.lora_step(plan, head, touched, adapters, self._overlap)

    def _plan(self, segments: Sequence[AdapterSegment], tile_size: int) -> PlanArrays | None:
        """Plan of the segments; the same object as for the step before, if nothing has changed."""
        if not segments:
            return None
        rows = [(s.start, s.end, slot_adapter(s).slot, s.weight) for s in segments]
        wanted = tile_size, rows, [self.base.placer.table.max_rank(row[2]) for row in rows]
        if wanted != self._planned:  # it rarely is: most steps make no more than these tuples
            self._arrays = self._tiles([SlotSegment(*row) for row in rows], tile_size)
            self._planned = wanted
        return self._arrays

    def _tiles(self, rows: Sequence[SlotSegment], tile_size: int) -> PlanArrays:
        max_rank, per_rank = self.base.placer.table.max_rank, self._per_rank[tile_size]
        return plan_tiles(rows, tile_size, lambda slot: max_rank(slot) * per_rank)

    @torch.inference_mode()
    def _capture(self, launcher: StepLauncher) -> None:
        direct = self.decode.launcher
        self.decode.launcher = launcher
        try:
            with self.frozen.forward_lock, _current(self.frozen.device):
                self.decode.capture_all()
        except RuntimeError as error:
            log.warning(
                "no CUDA graphs: a decode step could not be captured (cuda_graphs=False does without them)",
                exc_info=error,
            )
            self.decode.launcher = direct


def _scratch_batch(counts: Sequence[int], buffers: StepBuffers) -> StepBatch:
    """Make a batch of new sequences with `counts` rows each, which all write to one block; tables
    as wide as they get."""
    lengths = np.array(counts, np.int32)
    tables = np.full((len(counts), buffers.width), buffers.scratch_block, np.int32)
    return packed(np.zeros(lengths.sum(), np.int32), lengths, lengths, tables, buffers.block_size)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make `device` current: Triton launches on the thread's current device, whatever device its
    arguments are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _adapters(batch: StepBatch) -> list[SlotAdapter]:
    """Adapters of the batch, each once."""
    return list(dict.fromkeys(slot_adapter(s) for s in batch.segments))


def slot_adapter(segment: AdapterSegment) -> SlotAdapter:
    assert isinstance(segment.adapter, SlotAdapter)
    return segment.adapter
