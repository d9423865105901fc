"""One policy's turn: a warm-up that does not count, the load, and what the servers counted of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from loramux_client import AsyncClient
from rich.console import Console

from server.bench.call import OK, Ask, Call
from server.bench.draws.mix import Mix, Work
from server.bench.draws.prompts import Prompt
from server.bench.grpc_driver import GrpcDriver
from server.bench.load import Load, run
from server.bench.recorder import Recorder
from server.bench.session import measure as measured

from .bases import BASES
from .loads import CLASSES, Cell, popularity_classes
from .replicas import Counts, Replica, settled

_TIMEOUT_S = 120


async def turn(
    cell: Cell, port: int, replicas: Sequence[Replica], rate: float | None, seed: int
) -> dict[str, Any]:
    """Send a cell's load through `port`; `rate`: calls a second of an open loop."""
    base = BASES[cell.base]
    ask = Ask(base.max_new_tokens, ignore_eos=True, stream=True, timeout_s=_TIMEOUT_S, salted=True)
    mix = Mix(list(cell.weights), [Prompt(base.prompt)], weights=list(cell.weights.values()))
    load = Load(cell.calls, None, None if rate else cell.concurrency, rate)
    async with GrpcDriver(AsyncClient(f"127.0.0.1:{port}", retry=False), ask) as driver:
        before = await _warmed(cell, mix, driver, replicas, seed)
        found = await measured(load, mix, driver, 0, seed, Console(stderr=True, quiet=True))
        after = settled(replicas, sum(one.requests for one in before) + cell.calls)
    counted = [a - b for a, b in zip(after, before, strict=True)]
    return {"rate": rate} | summary(cell, found.recorder.calls, found.recorder.wall_s, counted)


async def _warmed(
    cell: Cell, mix: Mix, driver: GrpcDriver, replicas: Sequence[Replica], seed: int
) -> list[Counts]:
    """Bring the slots to what the policy makes of them: every adapter once, the least popular
    first, then some of the load. Gives the servers' counters after it."""
    before = sum(one.requests for one in settled(replicas, 0))
    names = list(reversed(mix.names))
    for work, calls in (
        (Work(iter(names), cycle(mix.prompts)), len(names)),
        (mix.work(f"warm-up {seed}"), cell.warmup),
    ):
        await run(Load(calls, None, cell.concurrency), work, driver, Recorder(), seed)
    return settled(replicas, before + len(names) + cell.warmup)


def summary(
    cell: Cell, calls: Sequence[Call], wall_s: float, counted: Sequence[Counts]
) -> dict[str, Any]:
    """What is kept of a turn: times in milliseconds from when a call was due, by class."""
    good = [call for call in calls if call.status == OK]
    classes = popularity_classes(cell.weights)
    ttft: dict[str, list[float]] = {name: [] for name in CLASSES}
    for call in good:
        if call.first is not None:
            ttft[classes[call.adapter]].append(round(1e3 * (call.first - call.intended), 2))
    return {
        "calls": len(calls),
        "failed": len(calls) - len(good),
        "wall_s": wall_s,
        "tokens": sum(call.tokens for call in good),
        "prompt_tokens": sum(call.prompt_tokens for call in good),
        "requests": [one.requests for one in counted],
        "replica_tokens": [one.prompt_tokens + one.completion_tokens for one in counted],
        "loads": [one.adapter_loads for one in counted],
        "ttft_ms": ttft,
    }
