"""Forward of a step whose modules are updated one by one, and the logits that come of it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import cast

import numpy as np
import torch

from ...kernels.attention import AttentionPlan
from ...kernels.updates import UpdateSegment
from ...kv_cache import KVCache
from ...model.frozen import FrozenModel
from ...modules import ModuleKind
from ...scheduling.batch import AdapterSegment, StepBatch, StepOutput
from .adapter import AdapterByModule


def run_forward(
    base: FrozenModel,
    cache: KVCache,
    plan: AttentionPlan,
    rows: Sequence[torch.Tensor],
    updates: Mapping[str, Sequence[UpdateSegment]],
) -> StepOutput:
    """Run transformers' forward on a step's `rows`: (tokens, positions, sampled rows).

    The base's lock is held.
    """
    tokens, positions, sampled = (r.long() for r in rows)
    with base.context.during(cache, plan, updates):
        logits = base.model(
            input_ids=tokens[None],
            position_ids=positions[None],
            logits_to_keep=sampled,
            use_cache=False,
        ).logits[0]
    return StepOutput.of(
        with_added(logits, updates.get(base.head_name, ()), base.vocab_size, base.max_added_tokens)
    )


def module_updates(
    batch: StepBatch, modules: Container[str] | None = None
) -> dict[str, list[UpdateSegment]]:
    """Update segments by module, of those named (None: of all); the lm_head's are sampled rows."""
    updates: dict[str, list[UpdateSegment]] = {}
    for segment in batch.segments:
        sampled = sampled_range(segment, batch)
        deltas = cast(AdapterByModule, segment.adapter).deltas
        for name in deltas if modules is None else [name for name in deltas if name in modules]:
            delta = deltas[name]
            start, end = (
                sampled if delta.kind is ModuleKind.LM_HEAD else (segment.start, segment.end)
            )
            if start < end:
                updates.setdefault(name, []).append(
                    UpdateSegment(start, end, delta, segment.weight)
                )
    return updates


def sampled_range(segment: AdapterSegment, batch: StepBatch) -> tuple[int, int]:
    """Range of the segment's rows among those that sample."""
    start, end = np.searchsorted(batch.sampled_rows, (segment.start, segment.end))
    return int(start), int(end)


def with_added(
    logits: torch.Tensor, head: Sequence[UpdateSegment], vocab: int, added: int
) -> torch.Tensor:
    """Logits (rows, vocab + added): wide enough for every adapter, -inf for tokens that the row's
    adapters do not have.

    `head`: updates that were made to the lm_head.
    """
    if not added:
        return logits
    out = logits.new_full((logits.shape[0], vocab + added), -torch.inf)
    out[:, :vocab] = logits[:, :vocab]
    for s in head:
        out[s.start : s.end, vocab : s.delta.out] = logits[s.start : s.end, vocab : s.delta.out]
    return out
