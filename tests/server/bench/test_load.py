"""Loops of a load, with a driver that is told how each call ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Self

import pytest
from rich.console import Console

from server.bench.call import BenchError, Call
from server.bench.draws.arrivals import Arrivals
from server.bench.draws.mix import Mix
from server.bench.draws.prompts import Prompt
from server.bench.load import Load
from server.bench.session import Measured, measure

MIX = Mix(["a"], [Prompt("x"), Prompt("y")])


class Scripted:
    """Driver whose calls take `takes_s`, or until `together` have begun, and end as `end` says."""

    def __init__(
        self,
        takes_s: float = 0.0,
        end: Callable[[Call], None] | None = None,
        together: int = 0,
    ) -> None:
        self._takes_s, self.end, self.together = takes_s, end, together
        self._all_begun = asyncio.Event()
        self.prompts: list[str] = []
        self.running = self.most = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def connect(self) -> None:
        pass

    async def adapters(self) -> list[str]:
        return []

    async def make(self, call: Call, prompt: Prompt) -> None:
        self.prompts.append(prompt.text)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._takes_s)
            if self.running == self.together:
                self._all_begun.set()
            if self.together:
                await self._all_begun.wait()
        finally:
            self.running -= 1
        if self.end is not None:
            self.end(call)


class Clock:
    """A clock that runs while something sleeps, and at no other time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await yield_once()


async def yield_once(sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    await sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    return clock


async def measured(load: Load, driver: Scripted, warmup: int = 0) -> Measured:
    return await measure(load, MIX, driver, warmup, 1, Console(quiet=True))


async def test_a_closed_loop_has_as_many_calls_at_once_as_callers() -> None:
    driver = Scripted(0.001)
    found = await measured(Load(20, None, 3), driver)
    assert (len(found.recorder.calls), driver.most) == (20, 3)
    assert driver.prompts == ["x", "y"] * 10
    assert found.report["total"]["calls"] == 20
    assert "latency_from_intended_ms" not in found.report["total"]


async def test_no_call_is_sent_after_the_time_and_those_under_way_end(clock: Clock) -> None:
    found = await measured(Load(None, 1.0, 1), Scripted(0.4))
    assert found.report["total"]["ok"] == 3
    assert found.report["wall_s"] == pytest.approx(1.2)


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    driver = Scripted(together=10)
    load = Load(10, None, None, 1000, Arrivals.CONSTANT)
    found = await asyncio.wait_for(measured(load, driver), 60)
    due = [call.intended for call in sorted(found.recorder.calls, key=lambda c: c.sent)]
    assert [b - a for a, b in pairwise(due)] == pytest.approx([0.001] * 9)


async def test_an_open_loop_with_a_bound_counts_from_when_calls_were_due(clock: Clock) -> None:
    driver = Scripted(0.02)
    found = await measured(Load(5, None, 1, 1000, Arrivals.CONSTANT), driver)
    assert driver.most == 1
    total = found.report["total"]
    assert total["latency_ms"]["max"] == pytest.approx(20)
    # The last was due 4 ms after the first, and is answered after five answers.
    assert total["latency_from_intended_ms"]["max"] == pytest.approx(5 * 20 - 4, abs=1.1)
    assert found.report["client"]["sent_late_ms"]["max"] == pytest.approx(4 * 20 - 4, abs=1.1)


async def test_calls_that_had_no_room_until_the_end_are_counted(clock: Clock) -> None:
    found = await measured(Load(None, 0.095, 1, 100, Arrivals.CONSTANT), Scripted(0.2))
    assert found.report["total"]["calls"] == 1
    assert found.report["not_sent"] == 9


async def test_an_open_loop_lasts_its_time(clock: Clock) -> None:
    found = await measured(Load(None, 3.5, None, 1.0, Arrivals.CONSTANT), Scripted())
    assert found.report["total"]["calls"] == 4
    assert found.report["wall_s"] == pytest.approx(3.5)


async def test_calls_that_fail_are_counted_and_give_no_times() -> None:
    ends = iter(["", "LATE", "", "BUSY", "LATE"])

    def end(call: Call) -> None:
        if status := next(ends):
            call.fail(status, f"{status} was said")

    found = await measured(Load(5, None, 1), Scripted(0, end))
    assert found.report["total"]["statuses"] == {"OK": 2, "LATE": 2, "BUSY": 1}
    assert found.report["errors"] == {"LATE": "LATE was said", "BUSY": "BUSY was said"}
    assert found.report["total"]["latency_ms"]["count"] == 2


async def test_a_warm_up_is_not_counted() -> None:
    driver = Scripted()
    found = await measured(Load(3, None, 2), driver, warmup=4)
    assert len(driver.prompts) == 7
    assert found.report["total"]["calls"] == 3


async def test_a_warm_up_without_an_answer_is_the_end() -> None:
    driver = Scripted(0, lambda call: call.fail("UNAVAILABLE", "nobody is there"))
    with pytest.raises(BenchError, match="UNAVAILABLE: nobody is there"):
        await measured(Load(100, None, 2), driver, warmup=2)
    assert len(driver.prompts) == 2


async def test_a_cancelled_load_gives_what_there_is() -> None:
    driver, enough = Scripted(), asyncio.Event()

    def end(call: Call) -> None:
        if len(driver.prompts) == 10:
            driver.together = 1000  # what comes now does not end
            enough.set()

    driver.end = end
    task = asyncio.create_task(measured(Load(None, 60, 2), driver))
    await enough.wait()
    while driver.running < 2:
        await asyncio.sleep(0)
    task.cancel()
    found = await task
    assert found.cancelled
    assert found.report["unfinished"] == 2
    assert found.report["total"]["ok"] == len(driver.prompts) - 2
    assert driver.running == 0
