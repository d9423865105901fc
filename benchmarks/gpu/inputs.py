"""Random inputs for single kernels: groups of projections with adapters in slots, and a paged
cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.gpu.cost import Shape
from benchmarks.gpu.step_cases import BLOCK
from lora_runtime.backends.streams import copy_stream
from lora_runtime.backends.triton.placement import FlatAdapter, Placer
from lora_runtime.kernels.attention import AttentionPlan
from lora_runtime.kernels.plan import (
    DECODE_TILE,
    PREFILL_TILE,
    LoraPlan,
    SlotSegment,
    hidden_per_row,
    plan_tiles,
)
from lora_runtime.kernels.slot_table import ModuleGroup, SlotTable
from lora_runtime.kernels.updates import ModuleDelta
from lora_runtime.modules import BaseModule, ModuleKind
from lora_runtime.scheduling.batch import packed


@dataclass
class LoraInputs:
    """`layers` groups of the same shape, adapters in all of them; `x` (T, in), `y` (T, sum of
    outs)."""

    x: torch.Tensor
    y: torch.Tensor
    groups: list[ModuleGroup]
    plan: LoraPlan
    table: SlotTable


def lora_inputs(
    inputs: int,
    outs: Sequence[int],
    rows: Sequence[int],
    ranks: Sequence[int],
    *,
    layers: int,
    dtype: torch.dtype,
    device: torch.device,
    dora: bool = False,
) -> LoraInputs:
    """`rows[i]` neighbouring rows of adapter i, which has rank `ranks[i]`; `dora`: with gains and
    biases too."""
    normal = _normal(device)
    modules = {
        f"layers.{n}.m{i}": BaseModule(ModuleKind.LINEAR, inputs, out, False)
        for n in range(layers)
        for i, out in enumerate(outs)
    }
    placer = Placer(modules, len(ranks), dtype, copy_stream(device))
    slots = []
    for rank in ranks:
        deltas = {
            name: ModuleDelta(
                m.kind,
                m.out_features,
                (normal(rank, inputs) / inputs**0.5).to(dtype),
                (normal(m.out_features, rank) / rank**0.5).to(dtype),
                2.0,
                gain=normal(m.out_features) * 0.1 if dora else None,
                bias=normal(m.out_features) if dora else None,
            )
            for name, m in modules.items()
        }
        slots.append(placer.place(FlatAdapter(deltas, pinned=placer.copies.pinned)))
    placer.flush()
    for slot in slots:
        slot.wait()
    groups = [ModuleGroup(n * len(outs), inputs, tuple(outs)) for n in range(layers)]
    starts = np.cumsum([0, *rows]).tolist()
    tile = DECODE_TILE if all(n == 1 for n in rows) else PREFILL_TILE
    plan = plan_tiles(
        [SlotSegment(starts[i], starts[i + 1], slot.slot, 1.0) for i, slot in enumerate(slots)],
        tile,
        lambda slot: hidden_per_row(placer.table.max_rank(slot), groups, tile),
    ).to(device)
    return LoraInputs(
        normal(starts[-1], inputs).to(dtype),
        normal(starts[-1], sum(outs)).to(dtype),
        groups,
        plan,
        placer.table,
    )


@dataclass
class AttentionInputs:
    """Queries (T, heads, d) and one cache per layer."""

    q: torch.Tensor
    caches: list[tuple[torch.Tensor, torch.Tensor]]
    plan: AttentionPlan
    scaling: float


def attention_inputs(
    shape: Shape,
    new: Sequence[int],
    contexts: Sequence[int],
    *,
    layers: int,
    dtype: torch.dtype,
    device: torch.device,
) -> AttentionInputs:
    """Sequence i has `new[i]` rows and then `contexts[i]` positions, in blocks that lie anywhere."""
    rng = np.random.default_rng(0)
    num_blocks = [-(-c // BLOCK) for c in contexts]
    blocks = rng.permutation(sum(num_blocks)).astype(np.int32)
    tables = np.zeros((len(new), max(num_blocks)), np.int32)
    for i, (count, end) in enumerate(zip(num_blocks, np.cumsum(num_blocks), strict=True)):
        tables[i, :count] = blocks[end - count : end]
    counts, lengths = (np.array(values, np.int32) for values in (new, contexts))
    rows = packed(np.zeros(sum(new), np.int32), counts, lengths, tables, BLOCK)
    normal = _normal(device, dtype)
    size = sum(num_blocks) * BLOCK, shape.kv_heads, shape.head_dim
    return AttentionInputs(
        normal(sum(new), shape.heads, shape.head_dim),
        [(normal(*size), normal(*size)) for _ in range(layers)],
        AttentionPlan.of(rows, device),
        shape.head_dim**-0.5,
    )


def _normal(
    device: torch.device, dtype: torch.dtype = torch.float32
) -> Callable[..., torch.Tensor]:
    """Draws tensors of any shape where they are needed: the host would take seconds for each case."""
    generator = torch.Generator(device).manual_seed(0)
    return lambda *size: torch.randn(*size, generator=generator, device=device, dtype=dtype)
