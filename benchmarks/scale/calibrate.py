"""Costs of a real server with one thread: its steps, its loads, its front.

Steps and loads are an engine's own reports, alone in this process; then another process computes
beside it. The front is what a server's process uses beyond its steps, in closed loops through Envoy.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from benchmarks.common.recorder import Recorder as Reports
from benchmarks.common.workloads import adapter_dir
from benchmarks.fleet.bases import BASES, Base, adapter_names
from benchmarks.fleet.envoy import routing
from benchmarks.fleet.policies import ROUND_ROBIN
from benchmarks.fleet.replicas import serving
from lora_runtime import Engine, EngineConfig, Request, SamplingParams, StepStats

from .costs import Costs, Process, Steps
from .front import CALLERS, FEW, MANY, Used, fitted_process, used

_SLOTS = 16
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24)
_NEIGHBOUR_TIMEOUT_S = 120


def calibrate(base: Base, program: Path, repeats: int = 3) -> Costs:
    """Measure an engine, and what a server uses for loads; `program`: Envoy."""
    costs = of_engine(base, repeats)
    with serving(base, 1, _SLOTS) as replicas, routing(program, ROUND_ROBIN, replicas, 0) as port:

        async def of(adapters: int) -> Used:
            return await used(base, port, replicas[0], costs.steps, FEW, CALLERS, adapters, 100)

        without, loading = (asyncio.run(of(count)) for count in (CALLERS, len(adapter_names())))
    of_load = (loading.front - without.front) / (loading.loads - without.loads)
    return replace(costs, loads=scaled(costs.loads, of_load))


def calibrate_processes(base: Base, program: Path, steps: Steps) -> dict[str, Process]:
    """Measure what the processes take around calls, which is the same for any base: with one that
    computes next to nothing."""
    with serving(base, 1, _SLOTS) as replicas, routing(program, ROUND_ROBIN, replicas, 0) as port:

        async def of(tokens: int, callers: int) -> Used:
            return await used(base, port, replicas[0], steps, tokens, callers, CALLERS, 300)

        alone = [asyncio.run(of(tokens, 1)) for tokens in (FEW, MANY)]
        together = [asyncio.run(of(tokens, CALLERS)) for tokens in (FEW, MANY)]
    return {
        name: fitted_process(
            [getattr(one, name) for one in alone],
            [getattr(one, name) for one in together],
            together[1].told,
        )
        for name in ("front", "envoy", "client")
    }


def scaled(loads: Sequence[float], mean: float) -> tuple[float, ...]:
    """Give loads as they are, but for their mean: what a server uses for one, where that is more
    than the reading that an engine reports."""
    factor = max(1.0, mean * len(loads) / sum(loads))
    return tuple(factor * load for load in loads)


def of_engine(base: Base, repeats: int) -> Costs:
    """Measure an engine's steps and loads."""
    with _engine(base) as engine:
        reports = Reports()
        engine.add_observer(reports)
        loads = _loads(engine, reports, repeats)
        steps = _steps(engine, reports, repeats)
        span = engine.base.attention_span
        alone_s = _steps_cpu_s(engine, reports, repeats)
        with _neighbour(base):
            beside = _steps_cpu_s(engine, reports, repeats) / alone_s
    return replace(fitted(steps), loads=tuple(loads), attention_span=span, beside=max(1.0, beside))


@contextmanager
def _engine(base: Base) -> Iterator[Engine]:
    """Run an engine that knows all adapters."""
    config = EngineConfig(
        threads=1,
        dtype=base.dtype,
        max_adapters=_SLOTS,
        adapter_host_bytes=0,
        prefix_caching=False,
    )
    directory = base.directory()
    with Engine(str(directory), config) as engine:
        engine.warm_up()
        for name in adapter_names():
            engine.load_adapter(str(adapter_dir(name, directory)), name)
        yield engine


def _steps_cpu_s(engine: Engine, reports: Reports, repeats: int) -> float:
    """Seconds of a core that the same steps take each time."""
    before = time.process_time()
    _steps(engine, reports, repeats)
    return time.process_time() - before


@contextmanager
def _neighbour(base: Base) -> Iterator[None]:
    """Let another process compute steps meanwhile."""
    spawning = multiprocessing.get_context("spawn")
    runs, is_over = spawning.Event(), spawning.Event()
    process = spawning.Process(target=_compute, args=(base.name, runs, is_over))
    process.start()
    try:
        if not runs.wait(_NEIGHBOUR_TIMEOUT_S):
            raise SystemExit("the other process did not start")
        yield
    finally:
        is_over.set()
        process.join()


def _compute(base: str, runs: Event, is_over: Event) -> None:
    with _engine(BASES[base]) as engine:
        reports = Reports()
        engine.add_observer(reports)
        _steps(engine, reports, 1)
        runs.set()
        while not is_over.is_set():
            _steps(engine, reports, 1)


def fitted(steps: Sequence[StepStats]) -> Costs:
    """Fit a step's time to what is in it, by relative errors."""
    rows = np.array([_content(stats) for stats in steps], float)
    seconds = np.array([s.duration_s for s in steps])
    kept = list(range(rows.shape[1]))
    while True:  # what would cost less than nothing costs nothing
        of_one = rows[:, kept] / seconds[:, None]
        found, *_ = np.linalg.lstsq(of_one, np.ones(len(steps)), rcond=None)
        if (found >= 0).all():
            break
        kept = [k for k, value in zip(kept, found, strict=True) if value >= 0]
    parts = np.zeros(rows.shape[1])
    parts[kept] = found
    error = float(np.median(np.abs(rows @ parts / seconds - 1)))
    return Costs(Steps(*map(float, parts)), loads=(), front=Process(), step_error=error)


def _content(stats: StepStats) -> tuple[int, int, int, int]:
    """What a step's time is made of, in the order of Steps."""
    decode_rows = stats.tokens - stats.prefill_tokens
    return 1, decode_rows, stats.prefill_tokens, stats.distinct_adapters


def _loads(engine: Engine, reports: Reports, repeats: int) -> list[float]:
    """Seconds of the loads of adapters that are asked for one after the other."""
    found = []
    for _ in range(repeats):
        reports.clear()
        for name in adapter_names():
            engine.submit(_request(name, 4, 1)).result()
        found += list(reports.load_s.values())
    return found


def _steps(engine: Engine, reports: Reports, repeats: int) -> list[StepStats]:
    """Steps of batches of many sizes, with prompts of many lengths; all adapters are there."""
    rng = random.Random(0)
    names = adapter_names()[:_SLOTS]
    for name in names:
        engine.submit(_request(name, 4, 1)).result()
    reports.clear()
    for size in _BATCHES * repeats:
        of = names[: rng.randint(1, _SLOTS)]
        handles = [
            engine.submit(_request(rng.choice(of), rng.randint(8, 64), rng.randint(8, 24)))
            for _ in range(size)
        ]
        for handle in handles:
            handle.result()
    return list(reports.steps)


def _request(adapter: str, prompt_tokens: int, new_tokens: int) -> Request:
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    return Request(adapter_id=adapter, token_ids=(65,) * prompt_tokens, sampling=sampling)
