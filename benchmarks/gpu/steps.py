"""Whole steps of a base with random weights, beside the least time that they can take on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from gpu.bases import random_updates
from gpu.cost import Cost, Rows, Shape, step_cost
from gpu.inputs import BLOCK
from gpu.machine import Ceilings, host_seconds
from lora_runtime import BaseModel
from lora_runtime.adapters.version import AdapterVersion
from lora_runtime.batch import AdapterSegment, StepBatch, packed
from lora_runtime.model.decode_steps import StepKey, StepLauncher
from lora_runtime.model.device_runner import DeviceRunner
from lora_runtime.model.placement import SlotAdapter


@dataclass(frozen=True)
class StepCase:
    """`sequences` with `new` rows each and then `context` positions, adapters of `rank` in turn (0 adapters: base)."""

    sequences: int
    new: int
    context: int
    adapters: int = 0
    rank: int = 0

    @property
    def name(self) -> str:
        kind = "decode" if self.new == 1 else "prefill"
        adapters = f"{self.adapters} x rank {self.rank}" if self.adapters else "base"
        return f"{kind} {self.sequences} x {self.new} over {self.context}, {adapters}"

    def rows(self) -> list[Rows]:
        return [Rows(self.new, self.context, self.rank, i % self.adapters if self.adapters else 0)
                for i in range(self.sequences)]


def full_cases(context: int = 1024) -> list[StepCase]:
    decode = [(1, 0, 0), (1, 1, 16), (8, 0, 0), (8, 8, 16), (32, 0, 0), (32, 1, 16), (32, 8, 16), (32, 32, 8),
              (32, 32, 16), (32, 32, 64), (32, 32, 128), (128, 0, 0), (128, 128, 16)]
    prefill = [(1, 2048, 0, 0), (1, 2048, 1, 16), (1, 2048, 1, 128), (32, 64, 0, 0), (32, 64, 32, 16)]
    return [*(StepCase(n, 1, context, d, r) for n, d, r in decode),
            *(StepCase(n, t, t, d, r) for n, t, d, r in prefill)]


OVERLAP_CASES = [StepCase(n, 1, 1024, n, 16) for n in (1, 32)]
"""Run once more with the shrink beside the base's product, to see whether that pays."""
TINY_CASES = [StepCase(2, 1, 9), StepCase(2, 1, 9, 2, 4), StepCase(2, 5, 5, 1, 4)]


class TimedLauncher:
    """Passes steps on and keeps the device's times of their starts and ends."""

    def __init__(self, launcher: StepLauncher) -> None:
        self.name, self._launcher = launcher.name, launcher
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def launch(self, key: StepKey, step: Callable[[], None]) -> None:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        self._launcher.launch(key, step)
        end.record()
        self.events.append((start, end))

    def summary(self) -> dict[str, float]:
        """Median milliseconds of a step on the device, and from one's end to the next one's start."""
        steps = [start.elapsed_time(end) for start, end in self.events[1:]]
        gaps = [before.elapsed_time(after) for (_, before), (after, _) in pairwise(self.events)]
        return {"device_ms": median(steps), "gap_ms": median(gaps)}


def measure(base: BaseModel, shape: Shape, cases: Sequence[StepCase], top: Ceilings, repeats: int,
            lora_overlap: bool = False) -> Iterator[dict[str, Any]]:
    """A row per case; `overhead`: the time with adapters by that of the same step without, where both were measured."""
    blocks = max(c.sequences * -(-c.context // BLOCK) for c in cases)
    runner = DeviceRunner(
        base, blocks, BLOCK, max_running=max(c.sequences for c in cases if c.new == 1),
        max_context=max(c.context for c in cases), lora_overlap=lora_overlap)
    plain: dict[tuple[int, int, int], float] = {}
    for case in cases:
        slots = _placed(base, shape, case)
        row = _timed(runner, _batch(case, slots), repeats)
        for slot in slots:
            base.remove_adapter(slot)
        parts = step_cost(shape, case.rows())
        seconds, least = row["ms"] / 1e3, sum(c.seconds(top.bandwidth, top.rate) for c in parts.values())
        total = sum(parts.values(), Cost())
        key = case.sequences, case.new, case.context
        if not case.adapters:
            plain[key] = seconds
        yield {"name": case.name + ", overlapped" * lora_overlap, **row, "limit_ms": least * 1e3,
               "of_limit": least / seconds,
               "gb_per_s": total.num_bytes / seconds / 1e9, "tflop_per_s": total.flops / seconds / 1e12,
               "tokens_per_s": case.sequences * case.new / seconds,
               "overhead": seconds / plain[key] if case.adapters and key in plain else None,
               "overhead_limit": least / (least - parts["lora"].seconds(top.bandwidth, top.rate))}


def _timed(runner: DeviceRunner, batch: StepBatch, repeats: int) -> dict[str, float]:
    row: dict[str, float] = {}
    if runner.base.device.type == "cuda" and len(batch.tokens) == len(batch.context_lengths):
        original = runner.decode.launcher
        runner.decode.launcher = timed = TimedLauncher(original)
        try:
            for _ in range(repeats):
                runner.forward(batch)
            torch.cuda.synchronize(runner.base.device)
            row = timed.summary()
        finally:
            runner.decode.launcher = original
    return {"ms": host_seconds(lambda: runner.forward(batch), runner.base.device, repeats) * 1e3, **row}


def _placed(base: BaseModel, shape: Shape, case: StepCase) -> list[SlotAdapter]:
    """One adapter's bytes in as many slots, each with memory of its own, as there are adapters."""
    if not case.adapters:
        return []
    staged = base.stage_adapter(random_updates(base, shape, case.rank))
    return [cast(SlotAdapter, base.place_adapter(staged)) for _ in range(case.adapters)]


def _batch(case: StepCase, slots: Sequence[SlotAdapter]) -> StepBatch:
    n = case.sequences
    width = -(-case.context // BLOCK)
    tables = np.random.default_rng(0).permutation(n * width).astype(np.int32).reshape(n, width)
    counts, contexts = (np.full(n, value, np.int32) for value in (case.new, case.context))
    batch = packed(np.full(n * case.new, 1, np.int32), counts, contexts, tables, BLOCK)
    # Sequences of one adapter are neighbours, as BatchPlanner sorts them.
    order = sorted(i % len(slots) for i in range(n)) if slots else []
    starts = batch.query_start.tolist()
    segments = [AdapterSegment(starts[i], starts[i + 1], _version(slots[a])) for i, a in enumerate(order)]
    return replace(batch, segments=segments, distinct_adapters=len(slots))


def _version(slot: SlotAdapter) -> AdapterVersion:
    """All that a runner reads of one."""
    return cast(AdapterVersion, SimpleNamespace(weights=slot))
