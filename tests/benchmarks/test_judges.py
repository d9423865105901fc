"""`loramux bench` and what judges it, on a server that waits by the clock: no call is shorter."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from loramux.v1 import inference_pb2_grpc
from loramux_client import AsyncClient
from rich.console import Console

from benchmarks.compare.judges import differences, page, tools
from benchmarks.compare.judges.loads import LOADS, STAND_IN, Said
from benchmarks.compare.judges.loads import Load as SharedLoad
from benchmarks.compare.judges.servers import serving
from benchmarks.compare.judges.stand_in import StandIn
from server.bench.call import Ask, Call
from server.bench.draws.arrivals import Arrivals
from server.bench.draws.mix import Mix
from server.bench.draws.prompts import Prompt
from server.bench.grpc_driver import GrpcDriver
from server.bench.load import Load
from server.bench.session import Measured, measure

FIRST_S, GAP_S, TOKENS = 0.04, 0.01, 5
WHOLE_S = FIRST_S + (TOKENS - 1) * GAP_S
CLOCK_S = 0.001
"""Timers may be so much early."""


@pytest_asyncio.fixture
async def target() -> AsyncIterator[str]:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(StandIn(FIRST_S, GAP_S), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def measured(target: str, load: Load, stream: bool) -> Measured:
    ask = Ask(TOKENS, ignore_eos=True, stream=stream, timeout_s=60, salted=False)
    async with GrpcDriver(AsyncClient(target, retry=False), ask) as driver:
        mix = Mix(["", "pirate"], [Prompt("hi")])
        return await measure(load, mix, driver, 0, 0, Console(stderr=True))


def took(call: Call) -> float:
    return call.ended - call.sent


async def test_no_call_of_a_closed_loop_is_shorter_than_the_delay(target: str) -> None:
    found = await measured(target, Load(12, None, 4), stream=False)
    calls, total = found.recorder.calls, found.report["total"]
    assert total["statuses"] == {"OK": 12}
    assert total["tokens"] == 12 * TOKENS
    assert min(map(took, calls)) >= WHOLE_S - CLOCK_S
    assert total["latency_ms"]["min"] == pytest.approx(1000 * min(map(took, calls)))
    # Four callers with one call each at a time; three in turn take the whole of the load.
    assert sum(map(took, calls)) <= 4 * found.recorder.wall_s
    assert found.recorder.wall_s >= 3 * (WHOLE_S - CLOCK_S)
    assert total["calls_per_s"] == pytest.approx(12 / found.recorder.wall_s)


async def test_a_streams_times_add_up(target: str) -> None:
    found = await measured(target, Load(4, None, 2), stream=True)
    assert found.report["total"]["itl_ms"]["count"] == 4 * (TOKENS - 1)
    for call in found.recorder.calls:
        assert call.first is not None
        first = call.first - call.sent
        assert first >= FIRST_S - CLOCK_S
        assert first + sum(call.gaps) == pytest.approx(call.last - call.sent)
        assert WHOLE_S - CLOCK_S <= call.last - call.sent <= took(call)


async def test_waiting_for_room_is_in_the_time_from_when_a_call_was_due(target: str) -> None:
    """The server answers one at a time, and more come than it answers."""
    load = Load(6, None, 1, rate=1000, arrivals=Arrivals.CONSTANT)
    found = await measured(target, load, stream=False)
    total = found.report["total"]
    assert total["latency_from_intended_ms"]["max"] >= 1000 * (6 * (WHOLE_S - CLOCK_S) - 0.005)
    last = max(found.recorder.calls, key=lambda call: call.sent)
    assert last.sent - last.intended >= 5 * (WHOLE_S - CLOCK_S) - 0.005


SHARED = SharedLoad(
    "here", STAND_IN, True, 12, TOKENS, 4, first_ms=1000 * FIRST_S, gap_ms=1000 * GAP_S
)
OPEN = replace(SHARED, name="open", rate=10)
UNARY = replace(SHARED, name="unary", stream=False)


@pytest.mark.parametrize("tool", [t for t in tools.TOOLS if t != differences.OURS])
def test_tools_say_what_the_stand_in_does(tool: str, tmp_path: Path) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not on the PATH")
    with serving(SHARED) as port:
        for load in (SHARED, UNARY, OPEN):
            said = tools.TOOLS[tool](load, port, tmp_path)
            assert said.statuses == {"OK": 12}
            assert said.p50 >= 1000 * (WHOLE_S - CLOCK_S)
            if tool == "k6" and load.stream:
                assert said.ttft_p50
                assert said.ttft_p50 >= 1000 * FIRST_S - 2
                assert said.itl_mean


def said_by_all(ours: Said) -> dict[str, list[Said]]:
    k6 = [Said(100, 50, 50, 50, 50, {"OK": 1}, 1, 20, 20, i, 10) for i in (9.8, 10, 10.2)]
    return {"ghz": [replace(k6[1], ttft_p50=None)] * 3, "k6": k6, differences.OURS: [ours] * 3}


@pytest.mark.parametrize(
    ("field", "value", "wrong"),
    [
        ("rps", 98, []),
        ("rps", 96, ["one: calls/s is -4.0% from ghz's"]),
        ("p99", 52, ["one: p99 is +4.0% from ghz's"]),
        ("itl_mean", 10.9, []),
        ("itl_mean", 11.5, ["one: ITL mean is +15.0% from k6's"]),
    ],
    ids=str,
)
def test_what_is_apart_is_told(field: str, value: float, wrong: list[str]) -> None:
    same = Said(100, 50, 50, 50, 50, {"OK": 1}, 1, 20, 20, 10, 10)
    changed: dict[str, Any] = {field: value}
    summed = differences.summary(said_by_all(replace(same, **changed)))
    assert differences.apart({"one": summed}) == wrong


def test_loads_have_names_of_their_own() -> None:
    assert len({load.name for load in LOADS}) == len(LOADS)


def test_the_page_has_a_row_a_load() -> None:
    summed = differences.summary(
        said_by_all(Said(104, 50, 50, 50, 50, {"OK": 1}, 1, 20, 20, 10, 10))
    )
    report = {
        "machine": {"cpu": "a CPU", "cores": 2, "date": "2026-01-01"},
        "rounds": 3,
        "loads": {"one": {"load": asdict(OPEN), **summed}},
    }
    assert page.judges(report).splitlines()[2:] == [
        "| `one`: 12 streams of 5 tokens, 10 a second | 100.0, +4.0% | 50.0, +0.0% | 50.0, +0.0% "
        "| 50.0, +0.0% | 20.0, +0.0% | 10.0, +0.0% |",
        "",
        "a CPU, 2 cores, 2026-01-01; 3 rounds.",
    ]
    assert "<!-- table judges -->" in page.PAGE.read_text()
