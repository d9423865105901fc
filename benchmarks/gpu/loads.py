"""What an adapter takes from its files into a slot, and what that costs the steps that run beside
it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, cast

import torch

from benchmarks.gpu.adapters import write_adapters
from benchmarks.gpu.bases import random_updates
from benchmarks.gpu.cost import Shape
from lora_runtime import BaseModel, Engine, EngineConfig, Request, SamplingParams
from lora_runtime.backends.triton.placement import FlatAdapter


def copies(base: BaseModel, shape: Shape, rank: int, repeats: int) -> dict[str, Any]:
    """From pinned host memory to the device."""
    staged = cast(FlatAdapter, base.stage_adapter(random_updates(base, shape, rank)))
    enqueued, arrived = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        placed = base.place_adapter(staged)
        enqueued.append(time.perf_counter() - started)
        if base.device.type == "cuda":
            torch.cuda.synchronize(base.device)
        arrived.append(time.perf_counter() - started)
        base.remove_adapter(placed)
    seconds = median(arrived)
    return {
        "name": f"copy, rank {rank}",
        "bytes": staged.num_bytes,
        "enqueue_ms": median(enqueued) * 1e3,
        "ms": seconds * 1e3,
        "gb_per_s": staged.num_bytes / seconds / 1e9,
    }


def through_the_engine(
    base: BaseModel,
    shape: Shape,
    *,
    rank: int,
    streams: int,
    tokens: int,
    loads: int,
    kv_cache_bytes: int,
) -> dict[str, Any]:
    """`loads` adapters from files, one after the other, while `streams` requests decode; and the
    same without loads."""
    config = EngineConfig(
        dtype=str(base.dtype).removeprefix("torch."),
        kv_cache_bytes=kv_cache_bytes,
        max_adapters=4,
        max_running=max(streams, 1),
        max_batch_tokens=256,
        prefix_caching=False,
    )
    with tempfile.TemporaryDirectory() as scratch, Engine(base, config) as engine:
        paths = write_adapters(Path(scratch), base, shape, rank, loads + 1)
        engine.load_adapter(paths[0], "streams")
        quiet, _ = _run(engine, streams, tokens, [])
        busy, taken = _run(engine, streams, tokens, paths[1:])
    return {
        "name": f"{loads} loads of rank {rank} beside {streams} streams",
        "load_ms": median(taken) * 1e3,
        "itl_p50_ms": percentile(quiet, 50),
        "itl_p99_ms": percentile(quiet, 99),
        "itl_p50_loading_ms": percentile(busy, 50),
        "itl_p99_loading_ms": percentile(busy, 99),
    }


def _run(
    engine: Engine, streams: int, tokens: int, paths: Sequence[Path]
) -> tuple[list[float], list[float]]:
    """(gaps between tokens in seconds, seconds of each load)."""
    gaps: list[float] = []
    taken: list[float] = []

    def stream() -> None:
        last = None
        for _ in engine.stream(
            Request(
                token_ids=(1, 2, 3),
                adapter_id="streams",
                sampling=SamplingParams(max_new_tokens=tokens, ignore_eos=True),
            )
        ):
            now = time.perf_counter()
            if last is not None:
                gaps.append(now - last)
            last = now

    threads = [threading.Thread(target=stream) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for i, path in enumerate(paths):
        started = time.perf_counter()
        engine.load_adapter(path, f"loaded-{i}")
        taken.append(time.perf_counter() - started)
        engine.unload_adapter(f"loaded-{i}")
    for thread in threads:
        thread.join()
    return gaps, taken


def percentile(seconds: list[float], at: int) -> float:
    """In milliseconds."""
    return quantiles(seconds, n=100, method="inclusive")[at - 1] * 1e3
