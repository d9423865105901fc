"""What a real server's process, Envoy and a client use for calls, beyond steps: seconds of a core that
the system counts, not what clocks show."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loramux_client import AsyncClient

from benchmarks.fleet.bases import Base, adapter_names
from benchmarks.fleet.replicas import Replica, page_of
from server.bench.call import Ask
from server.bench.draws.mix import Mix
from server.bench.draws.prompts import Prompt
from server.bench.grpc_driver import GrpcDriver
from server.bench.load import Load, run
from server.bench.recorder import Recorder

from .costs import Process, Steps

CALLERS = 8
FEW, MANY = 1, 17
"""Tokens of the answers from whose difference the cost of one is taken."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = (
    "step_seconds_count",
    "step_tokens_sum",
    "prompt_tokens_total",
    "step_distinct_adapters_sum",
    "adapter_loads_total",
)


@dataclass(frozen=True)
class Used:
    """What calls took, each on average: seconds of a core by process, and what was in them."""

    front: float
    envoy: float
    client: float
    told: float
    """Tokens of a step."""
    loads: float


async def used(
    base: Base,
    port: int,
    server: Replica,
    steps: Steps,
    tokens: int,
    callers: int,
    adapters: int,
    calls: int,
) -> Used:
    """Measure a closed loop of answers of so many tokens."""
    ask = Ask(tokens, ignore_eos=True, stream=True, timeout_s=60, salted=True)
    mix = Mix(adapter_names()[:adapters], [Prompt(base.prompt)])
    async with GrpcDriver(AsyncClient(f"127.0.0.1:{port}", retry=False), ask) as driver:
        await run(Load(callers * 4, None, callers), mix.work("warm"), driver, Recorder(), 0)
        before = _so_far(server)
        await run(Load(calls, None, callers), mix.work("front"), driver, Recorder(), 0)
        after = _so_far(server)
    found = [a - b for a, b in zip(after, before, strict=True)]
    server_s, envoy_s, client_s, count, step_tokens, prompt_tokens, distinct, loads = found
    # Not the seconds that the steps were seen to take: who waits for a core is in these.
    in_steps = steps.step * count + steps.adapter * distinct
    in_steps += steps.prefill_token * prompt_tokens
    in_steps += steps.decode_row * (step_tokens - prompt_tokens)
    return Used(
        (server_s - in_steps) / calls,
        envoy_s / calls,
        client_s / calls,
        calls * tokens / count,
        loads / calls,
    )


def fitted_process(alone: Sequence[float], together: Sequence[float], told: float) -> Process:
    """Fit seconds of a call with FEW and with MANY tokens: of one caller, for whom all wakes up for
    the call and at each token, and of many, where `told` of these come at once."""
    wake = max(0.0, (alone[1] - together[1]) / ((1 + MANY) * (1 - 1 / told)))
    token = max(0.0, (together[1] - together[0]) / (MANY - FEW) - wake / told)
    return Process(wake, max(0.0, together[0] - FEW * token - (1 + FEW) * wake / told), token)


def _so_far(server: Replica) -> list[float]:
    """Seconds of the server's process, of Envoy, and of this one, and the sums of what was in
    steps."""
    page = page_of(server)
    own = Path("/proc/self/task").glob("*/children")
    children = [int(pid) for tasks in own for pid in tasks.read_text().split()]
    envoy = sum(_cpu_s(pid) for pid in children if pid != server.process.pid)
    sums = [_total(page, f"loramux_{name}") for name in _PAGE]
    return [_cpu_s(server.process.pid), envoy, time.process_time(), *sums]


def _total(page: str, name: str) -> float:
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)
    return sum(map(float, found))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S
