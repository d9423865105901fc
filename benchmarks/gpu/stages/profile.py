"""Where a step's time goes, by kernel: microseconds and launches of each, and the gaps between
them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.bases import random_base
from benchmarks.gpu.cost import LLAMA_8B, TINY
from benchmarks.gpu.session.context import Context
from benchmarks.gpu.step_cases import StepCase
from benchmarks.gpu.steps import StepBench

CASES = [
    StepCase(32, 1, 1024),
    StepCase(32, 1, 1024, 32, 16),
    StepCase(32, 1, 1024, 32, 16, chunk=64),
    StepCase(1, 1, 1024),
]
TINY_CASES = [StepCase(2, 1, 9), StepCase(2, 1, 9, 2, 4)]
SHOWN = 30
"""Kernels of a step, those that take most; what is left is summed up."""


def run(context: Context) -> None:
    cases, shape = (CASES, LLAMA_8B) if context.real else (TINY_CASES, TINY)
    base = random_base(shape, context.device, context.dtype, slots=max(c.adapters for c in cases))
    bench = StepBench(base, shape, cases)
    for case in cases:
        if context.has(name := f"{shape.name} {case.name}"):
            continue
        with attempt(context, name), bench.batch(case) as batch:
            step = lambda batch=batch: bench.runner.forward(batch)  # noqa: E731
            for _ in range(3):
                step()
            kernels, wall_us = _profiled(step, context.device)
            busy = sum(k["us"] for k in kernels)
            context.emit(
                name,
                wall_us=wall_us,
                busy_us=busy,
                gap_us=wall_us - busy,
                launches=sum(k["count"] for k in kernels),
                kernels=kernels[:SHOWN],
                rest_us=sum(k["us"] for k in kernels[SHOWN:]),
            )


def _profiled(
    step: Callable[[], object], device: torch.device
) -> tuple[list[dict[str, Any]], float]:
    """(kernels of one step by time, its wall microseconds without the profiler)."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        step()
        _finish(device)
    started = time.perf_counter()
    step()
    _finish(device)
    wall = (time.perf_counter() - started) * 1e6
    found: dict[str, dict[str, Any]] = {}
    for event in profiler.key_averages():
        us = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        if us:
            name = event.key[:120]
            row = found.setdefault(name, {"kernel": name, "us": 0.0, "count": 0})
            row["us"] += float(us)
            row["count"] += int(event.count)
    return sorted(found.values(), key=lambda k: -k["us"]), wall


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
