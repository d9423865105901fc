"""The load itself: a closed loop of callers who wait, or an open loop of calls that come when they
are due."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from .call import Call, Driver
from .draws.arrivals import Arrivals, arrival_times
from .draws.mix import Work
from .recorder import Recorder


@dataclass(frozen=True)
class Load:
    """How many calls, and when."""

    calls: int | None
    """At most so many; None: as many as the time has room for."""
    duration_s: float | None
    """No call is sent after it; those that run are waited for."""
    concurrency: int | None
    """Most calls under way at once; None, in an open loop alone: any number."""
    rate: float | None = None
    """Calls a second of an open loop; None: a closed one."""
    arrivals: Arrivals = Arrivals.POISSON
    cv: float = 1.0


async def run(load: Load, work: Work, driver: Driver, recorder: Recorder, seed: int) -> None:
    """Send the load, and wait for all of its answers."""
    sender = _Sender(load, work, driver, recorder)
    recorder.start()
    try:
        if load.rate is None:
            await sender.closed()
        else:
            await sender.open(
                arrival_times(load.arrivals, load.rate, load.cv, random.Random(f"arrivals {seed}"))
            )
    finally:
        recorder.end()


class _Sender:
    def __init__(self, load: Load, work: Work, driver: Driver, recorder: Recorder) -> None:
        self._load, self._work, self._driver, self._recorder = load, work, driver, recorder
        self._numbers = count() if load.calls is None else iter(range(load.calls))
        self._until = time.perf_counter() + (load.duration_s or float("inf"))

    async def closed(self) -> None:
        """Let callers make one call after the other."""
        async with asyncio.TaskGroup() as callers:
            for _ in range(self._load.concurrency or 1):
                callers.create_task(self._caller())

    async def _caller(self) -> None:
        while time.perf_counter() < self._until and next(self._numbers, None) is not None:
            await self._call(None)

    async def open(self, times: Iterator[float]) -> None:
        """Send each call when it is due, whatever has become of those before."""
        start = time.perf_counter()
        room = asyncio.Semaphore(self._load.concurrency) if self._load.concurrency else None
        async with asyncio.TaskGroup() as calls:
            for _, after in zip(self._numbers, times, strict=False):
                due = start + after
                if due >= self._until:
                    await _until(
                        self._until
                    )  # the load's time is over then, not with its last call
                    break
                await _until(due)
                if room is not None:
                    await room.acquire()
                if time.perf_counter() >= self._until:
                    self._recorder.not_sent = 1 + self._due(times, start)
                    break
                calls.create_task(self._in_room(due, room))

    def _due(self, times: Iterator[float], start: float) -> int:
        """Count the calls that had no room until the load's end."""
        due = 0
        for _, after in zip(self._numbers, times, strict=False):
            if start + after >= self._until:
                break
            due += 1
        return due

    async def _in_room(self, due: float, room: asyncio.Semaphore | None) -> None:
        try:
            await self._call(due)
        finally:
            if room is not None:
                room.release()

    async def _call(self, due: float | None) -> None:
        adapter, prompt = next(self._work.adapters), next(self._work.prompts)
        now = time.perf_counter()
        call = Call(adapter, now if due is None else due, now)
        with self._recorder.calling(call):
            await self._driver.make(call, prompt)


async def _until(due: float) -> None:
    while (wait := due - time.perf_counter()) > 0:
        await asyncio.sleep(wait)
