"""Whole steps of a base with random weights, beside the least time that they can take on this
machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any, cast

import numpy as np
import torch

from benchmarks.gpu.bases import random_updates
from benchmarks.gpu.cost import Cost, Shape, step_cost
from benchmarks.gpu.machine import Ceilings, host_seconds
from benchmarks.gpu.step_cases import BLOCK, StepCase
from lora_runtime import BaseModel
from lora_runtime.backends.triton.decode_steps import GraphSteps, StepKey, StepLauncher
from lora_runtime.backends.triton.placement import FlatAdapter, SlotAdapter
from lora_runtime.backends.triton.runner import TritonRunner
from lora_runtime.scheduling.batch import AdapterSegment, StepBatch, packed

_LAUNCHING = 4_000_000
"""Cycles, two milliseconds: the device waits that long before a step that is timed, so that the
host has launched all of it when it begins."""
_CONTEXT = 4096
"""Positions that block tables have room for on a GPU, in every measurement: how a decode row's keys
are split among programs depends on it."""


class TimedLauncher:
    """Passes steps on and keeps the device's times of their starts and ends."""

    def __init__(self, launcher: StepLauncher) -> None:
        self.name, self._launcher = launcher.name, launcher
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def launch(self, key: StepKey, step: Callable[[], None]) -> None:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(_LAUNCHING)
        start.record()
        self._launcher.launch(key, step)
        end.record()
        self.events.append((start, end))

    def summary(self) -> dict[str, float]:
        """Milliseconds of a step on the device: median and its spread (the middle half's)."""
        steps = sorted(start.elapsed_time(end) for start, end in self.events[1:])
        low, high = (steps[int(share * (len(steps) - 1))] for share in (0.25, 0.75))
        return {"device_ms": median(steps), "device_spread_ms": high - low}


class StepBench:
    """One base, one KV cache large enough for `cases`, and steps on them. On CUDA decode steps are
    captured when they are first run."""

    def __init__(
        self, base: BaseModel, shape: Shape, cases: Sequence[StepCase], lora_overlap: bool = False
    ) -> None:
        self.base, self.shape = base, shape
        self.runner = base.make_runner(
            max(c.blocks() for c in cases),
            BLOCK,
            max_running=max(len(c.counts()) for c in cases),
            max_context=max(
                _CONTEXT if base.device.type == "cuda" else 0,
                *(context for c in cases for _, context in c.counts()),
            ),
            cuda_graphs=False,
            lora_overlap=lora_overlap,
        )
        if base.device.type == "cuda":
            self.runner.decode.launcher = GraphSteps(base.device)
        self._staged: dict[int, FlatAdapter] = {}

    @contextmanager
    def batch(self, case: StepCase) -> Iterator[StepBatch]:
        """The case's step, with its adapters in slots while it is entered."""
        slots = self.place(case.rank, case.adapters)
        try:
            yield batch_of(case, slots)
        finally:
            for slot in slots:
                self.base.remove_adapter(slot)

    def place(self, rank: int, count: int) -> list[SlotAdapter]:
        """One adapter's bytes in `count` slots, each with memory of its own; drawn once for a rank."""
        if count and rank not in self._staged:
            self._staged.clear()  # pinned memory of wide ranks is gigabytes
            self._staged[rank] = cast(
                FlatAdapter, self.base.stage_adapter(random_updates(self.base, self.shape, rank))
            )
        return [
            cast(SlotAdapter, self.base.place_adapter(self._staged[rank])) for _ in range(count)
        ]

    def measure(self, case: StepCase, top: Ceilings, repeats: int) -> dict[str, Any]:
        """Milliseconds of the step by the host's clock (`ms`) and, where it is replayed, on the
        device; `floor_ms` is the least at the ceilings `top`, of which `lora_floor_ms` is the
        adapters' part."""
        with self.batch(case) as batch:
            row = timed(self.runner, batch, repeats)
        parts = step_cost(self.shape, case.rows())
        floors = {name: cost.seconds(top.bandwidth, top.rate) * 1e3 for name, cost in parts.items()}
        total, taken = sum(parts.values(), Cost()), row.get("device_ms", row["ms"])
        return {
            **row,
            "floor_ms": sum(floors.values()),
            "lora_floor_ms": floors["lora"],
            "of_floor": sum(floors.values()) / taken,
            "gb_per_s": total.num_bytes / taken / 1e6,
            "tflop_per_s": total.flops / taken / 1e9,
            "tokens_per_s": len(batch.tokens) / taken * 1e3,
        }

    def fits(self, case: StepCase) -> bool:
        """Whether the device has room for its adapters, with a tenth to spare."""
        if self.base.device.type != "cuda":
            return True
        torch.cuda.synchronize(self.base.device)
        self.base.backend.fused.placer.flush()  # lets go of what the case before had in slots
        free, total = torch.cuda.mem_get_info(self.base.device)
        cached = torch.cuda.memory_reserved(self.base.device) - torch.cuda.memory_allocated(
            self.base.device
        )
        wanted = case.adapters * self.shape.adapter_values(case.rank) * self.shape.dtype_bytes
        return wanted < free + cached - total // 10


def timed(runner: TritonRunner, batch: StepBatch, repeats: int) -> dict[str, float]:
    """Milliseconds of a step: `ms` by the host's clock, and what a replayed one takes on the
    device."""
    row: dict[str, float] = {}
    runner.forward(batch)  # compiles, captures, and waits for the adapters
    if runner.frozen.device.type == "cuda" and len(batch.tokens) == len(batch.context_lengths):
        original = runner.decode.launcher
        runner.decode.launcher = watch = TimedLauncher(original)
        try:
            for _ in range(repeats + 1):
                runner.forward(batch)
            torch.cuda.synchronize(runner.frozen.device)
            row = (
                watch.summary() if watch.events else {}
            )  # none of a step that the fixed buffers do not hold
        finally:
            runner.decode.launcher = original
    return {
        "ms": host_seconds(lambda: runner.forward(batch), runner.frozen.device, repeats) * 1e3,
        **row,
    }


def batch_of(case: StepCase, slots: Sequence[SlotAdapter]) -> StepBatch:
    """The case's step, its KV blocks anywhere in the cache."""
    counts = np.array(case.counts(), np.int32)
    widths = -(-counts[:, 1] // BLOCK)
    blocks = np.random.default_rng(0).permutation(int(widths.sum())).astype(np.int32)
    tables = np.zeros((len(counts), int(widths.max())), np.int32)
    for i, (width, end) in enumerate(zip(widths, np.cumsum(widths), strict=True)):
        tables[i, :width] = blocks[end - width : end]
    tokens = np.full(int(counts[:, 0].sum()), 1, np.int32)
    batch = packed(tokens, counts[:, 0].copy(), counts[:, 1].copy(), tables, BLOCK)
    starts = batch.query_start.tolist()
    segments = [
        AdapterSegment(starts[i], starts[i + 1], slots[a]) for i, a in enumerate(case.order())
    ]
    return replace(batch, segments=segments, distinct_adapters=len(slots))
