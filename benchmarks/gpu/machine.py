"""The device, what it can do at most, and how long something takes on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ceilings:
    """Measured, not the data sheet's: bytes/s of a copy, FLOP/s of torch's own product."""

    bandwidth: float
    rate: float


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter: right, and thousands of times too slow to
    time."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def describe(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton"),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "interpreter": interpreting(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "capability": f"{properties.major}.{properties.minor}",
        }
    return found


def ceilings(device: torch.device, dtype: torch.dtype, small: bool) -> Ceilings:
    """`small` for machines without a GPU, where the values only show that the command works."""
    size, width = (64 << 20, 512) if small else (1 << 30, 8192)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    repeats = 3 if small else 15
    return Ceilings(
        2 * size / seconds(lambda: target.copy_(source), device, repeats),
        2 * width**3 / seconds(lambda: a @ b, device, repeats),
    )


def seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of `run`. On CUDA it is captured and replayed, so that launches from Python
    are not in it."""
    if device.type != "cuda":
        return _host_seconds(run, repeats)
    replay = _captured(run).replay
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(repeats)
    ]
    for start, end in events:
        start.record()
        replay()
        end.record()
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def host_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall seconds of `run` with everything that it starts on the device, launches included."""

    def finished() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return _host_seconds(finished, repeats)


def _host_seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])  # the first warms up


def _captured(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles, and lets libraries choose
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    return graph
