"""Costs of a real server with one thread: its steps, its loads, its front.

Steps and loads are an engine's own reports, alone in this process. The front is what a server's
process uses beyond its steps, in a closed loop through Envoy without a load; the client's part is
what Envoy and the caller use meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from loramux_client import AsyncClient

from benchmarks.common.recorder import Recorder as Reports
from benchmarks.common.workloads import adapter_dir
from benchmarks.fleet.bases import Base, adapter_names
from benchmarks.fleet.envoy import routing
from benchmarks.fleet.policies import ROUND_ROBIN
from benchmarks.fleet.replicas import Replica, page_of, serving
from lora_runtime import Engine, EngineConfig, Request, SamplingParams, StepStats
from server.bench.call import Ask
from server.bench.draws.mix import Mix
from server.bench.draws.prompts import Prompt
from server.bench.grpc_driver import GrpcDriver
from server.bench.load import Load, run
from server.bench.recorder import Recorder

from .costs import Costs, Steps

_SLOTS = 16
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24)
_CALLS, _CALLERS = 300, 8
_FEW, _MANY = 1, 17
"""Tokens of the answers from whose difference the cost of one is taken."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def calibrate(base: Base, program: Path, repeats: int = 3) -> Costs:
    """Measure everything; `program`: Envoy. Takes a minute, and a machine with nothing else on it."""
    costs = of_engine(base, repeats)
    with serving(base, 1, _SLOTS) as replicas, routing(program, ROUND_ROBIN, replicas, 0) as port:
        few, many = (
            asyncio.run(_front(base, port, replicas[0], costs, tokens)) for tokens in (_FEW, _MANY)
        )
    token, client_token = ((m - f) / (_MANY - _FEW) for f, m in zip(few, many, strict=True))
    return replace(
        costs,
        token=max(0.0, token),
        call=max(0.0, few[0] - _FEW * token),
        client_token=max(0.0, client_token),
        client_call=max(0.0, few[1] - _FEW * client_token),
    )


def of_engine(base: Base, repeats: int) -> Costs:
    """Measure an engine's steps and loads."""
    config = EngineConfig(
        threads=1,
        dtype=base.dtype,
        max_adapters=_SLOTS,
        adapter_host_bytes=0,
        prefix_caching=False,
    )
    directory = base.directory()
    with Engine(str(directory), config) as engine:
        reports = Reports()
        engine.add_observer(reports)
        engine.warm_up()
        for name in adapter_names():
            engine.load_adapter(str(adapter_dir(name, directory)), name)
        loads = _loads(engine, reports, repeats)
        steps = _steps(engine, reports, repeats)
        span = engine.base.attention_span
    return replace(fitted(steps), loads=tuple(loads), attention_span=span)


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
    return Costs(Steps(*map(float, parts)), loads=(), call=0, token=0, step_error=error)


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


async def _front(
    base: Base, port: int, server: Replica, costs: Costs, tokens: int
) -> tuple[float, float]:
    """Seconds of a core for each call: of the server beyond its steps, of Envoy and client."""
    ask = Ask(tokens, ignore_eos=True, stream=True, timeout_s=60, salted=True)
    mix = Mix(adapter_names()[:_CALLERS], [Prompt(base.prompt)])
    async with GrpcDriver(AsyncClient(f"127.0.0.1:{port}", retry=False), ask) as driver:
        await run(Load(_CALLERS * 4, None, _CALLERS), mix.work("warm"), driver, Recorder(), 0)
        before = _used(server)
        await run(Load(_CALLS, None, _CALLERS), mix.work("front"), driver, Recorder(), 0)
        after = _used(server)
    server_s, others_s, *sums = (a - b for a, b in zip(after, before, strict=True))
    steps, step_tokens, prompt_tokens, adapters = sums
    # Not the seconds that the steps were seen to take: who waits for a core is in these.
    of = costs.steps
    in_steps = of.step * steps + of.adapter * adapters
    in_steps += of.prefill_token * prompt_tokens + of.decode_row * (step_tokens - prompt_tokens)
    return (server_s - in_steps) / _CALLS, others_s / _CALLS


def _used(server: Replica) -> list[float]:
    """What there was so far: seconds of the server's process, and of this one and Envoy, and the
    sums of what was in steps."""
    page = page_of(server)
    own = Path("/proc/self/task").glob("*/children")
    children = [int(pid) for tasks in own for pid in tasks.read_text().split()]
    others = sum(_cpu_s(pid) for pid in children if pid != server.process.pid)
    sums = [
        _total(page, f"loramux_{name}")
        for name in (
            "step_seconds_count",
            "step_tokens_sum",
            "prompt_tokens_total",
            "step_distinct_adapters_sum",
        )
    ]
    return [_cpu_s(server.process.pid), others + time.process_time(), *sums]


def _total(page: str, name: str) -> float:
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)
    return sum(map(float, found))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S
