"""A load from its warm-up to its report."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from .call import OK, BenchError, Driver
from .draws.mix import Mix
from .load import Load, run
from .progress import LiveFigures
from .recorder import Recorder
from .summary import summary


@dataclass
class Measured:
    """A load's calls, and the report of them."""

    recorder: Recorder
    report: dict[str, Any]
    cancelled: bool


async def measure(
    load: Load, mix: Mix, driver: Driver, warmup: int, seed: int, console: Console
) -> Measured:
    """Warm up, send the load, sum up. Cancelled, it gives what there is.

    Raises BenchError where no call of the warm-up is answered.
    """
    recorder, cancelled = Recorder(), False
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    await _warm_up(load, mix, driver, warmup, seed)
    # What is there stays: no collection of garbage walks through it within a call.
    gc.collect()
    gc.freeze()
    async with LiveFigures(console, load, recorder):
        try:
            await run(load, mix.work(str(seed)), driver, recorder, seed)
        except asyncio.CancelledError:
            cancelled = True
    report = {"began": begun, "cancelled": cancelled, **summary(recorder, load.rate is not None)}
    return Measured(recorder, report, cancelled)


async def _warm_up(load: Load, mix: Mix, driver: Driver, calls: int, seed: int) -> None:
    if not calls:
        return
    recorder = Recorder()
    warm = Load(calls, None, min(calls, load.concurrency or calls))
    await run(warm, mix.work(f"warm-up {seed}"), driver, recorder, seed)
    if not recorder.statuses[OK]:
        why = "; ".join(f"{status}: {message}" for status, message in recorder.errors.items())
        raise BenchError(f"no call of the warm-up was answered: {why}")
