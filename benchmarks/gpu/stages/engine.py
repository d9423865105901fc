"""The engine without gRPC: many streams at once, and what of a step is the host's."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.adapters import write_adapters
from benchmarks.gpu.bases import random_base
from benchmarks.gpu.cost import LLAMA_8B, TINY, Shape
from benchmarks.gpu.loads import percentile
from benchmarks.gpu.session.context import Context
from benchmarks.gpu.shares import Shares, watched
from lora_runtime import BaseModel, Engine, EngineConfig, Request, SamplingParams


@dataclass(frozen=True)
class Load:
    """`streams` requests at once, over `adapters` adapters in turn (0: the base)."""

    streams: int
    adapters: int
    sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        adapters = f"{self.adapters} adapters" if self.adapters else "base"
        return f"{self.streams} streams, {adapters}, {'top_p' if self.sampling else 'greedy'}"


TOP_P = {"temperature": 0.8, "top_p": 0.9, "seed": 1}
LOADS = [Load(128, 0), Load(128, 32), Load(32, 32), Load(32, 0), Load(128, 32, TOP_P)]
TINY_LOADS = [Load(2, 0), Load(2, 2), Load(2, 2, TOP_P)]
PROMPT, TOKENS, RANK = 64, 192, 16


def run(context: Context) -> None:
    shape, loads = (LLAMA_8B, LOADS) if context.real else (TINY, TINY_LOADS)
    slots = max(load.adapters for load in loads)
    base = random_base(shape, context.device, context.dtype, slots=slots)
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_adapters(Path(scratch), base, shape, RANK if context.real else 4, slots)
        engine = _engine(context, base, max(load.streams for load in loads), slots)
        with engine:
            started = time.perf_counter()
            for i, path in enumerate(paths):
                engine.load_adapter(path, f"a{i}")
            context.emit("adapters read", count=len(paths), seconds=time.perf_counter() - started)
            _run(engine, Load(2, slots), 4)  # brings them into slots, and everything into caches
            for load in loads:
                if not context.has(load.name):
                    _measure(context, engine, shape, load)


def _engine(context: Context, base: BaseModel, streams: int, slots: int) -> Engine:
    config = EngineConfig(
        dtype=str(base.dtype).removeprefix("torch."),
        max_adapters=slots,
        max_running=streams,
        max_context=1024,
        max_batch_tokens=2048 if context.real else 128,
        adapter_host_bytes=8 << 30,
        prefix_caching=False,
        kv_cache_bytes=0 if context.real else 1 << 20,
    )
    logging.getLogger("lora_runtime").setLevel(logging.INFO)
    started = time.perf_counter()
    engine = Engine(base, config)
    context.emit(
        "start",
        seconds=time.perf_counter() - started,
        memory=str(engine.info().memory),
        kernels=dict(engine.info().kernels),
    )
    return engine


def _measure(context: Context, engine: Engine, shape: Shape, load: Load) -> None:
    tokens = TOKENS if context.real else 4
    with watched(engine) as shares:
        started, steps = time.perf_counter(), engine.stats().steps
        gaps, first, produced = _run(engine, load, tokens)
        wall = time.perf_counter() - started
    context.emit(
        load.name,
        tokens_per_s=produced / wall,
        wall_s=wall,
        tokens=produced,
        steps=engine.stats().steps - steps,
        itl_p50_ms=percentile(gaps, 50),
        itl_p99_ms=percentile(gaps, 99),
        ttft_p50_ms=percentile(first, 50),
        host=_host(shares, load.streams),
    )


def _host(shares: Shares, streams: int) -> dict[str, Any]:
    """Milliseconds a step of each part, and the host's own: the step but for launch and wait."""
    steps = max(1, shares.calls["step"])
    found = {
        f"{name}_ms": seconds / steps * 1e3 for name, seconds in sorted(shares.seconds.items())
    }
    waits = shares.seconds["forward: wait"] + shares.seconds["forward: launch"]
    own = shares.seconds["step"] - (waits or shares.seconds["forward"])
    return {
        **found,
        "own_ms": own / steps * 1e3,
        "own_us_per_row": own / steps / streams * 1e6,
        "longest_gc_generation": max((n for n in shares.seconds if n.startswith("gc")), default=""),
    }


def _run(engine: Engine, load: Load, tokens: int) -> tuple[list[float], list[float], int]:
    """(seconds between tokens, seconds to each first one, tokens in all)."""
    gaps: list[float] = []
    firsts: list[float] = []
    counts: list[int] = []

    def stream(index: int) -> None:
        adapter = f"a{index % load.adapters}" if load.adapters else ""
        options = {**load.sampling, **({"seed": index} if load.sampling else {})}
        request = Request(
            token_ids=tuple(range(1, PROMPT if tokens > 4 else 3)),
            adapter_id=adapter,
            sampling=SamplingParams(max_new_tokens=tokens, ignore_eos=True, **options),
        )
        last, started, count = None, time.perf_counter(), 0
        for event in engine.stream(request):
            now = time.perf_counter()
            (firsts if last is None else gaps).append(now - (started if last is None else last))
            last, count = now, count + len(event.token_ids)
        counts.append(count)

    _together([threading.Thread(target=stream, args=(i,)) for i in range(load.streams)])
    return gaps, firsts, sum(counts)


def _together(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
