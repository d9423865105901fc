"""Ways to make an engine slow, broken or idle, so that tests meet it in that state."""

from __future__ import annotations

import time

from lora_runtime import Engine, EngineStats


def slow_down(engine: Engine, seconds: float = 0.01) -> None:
    """Every step takes `seconds` longer: what is submitted is still running a moment later."""
    forward = engine._runner.forward

    def slow(batch):
        time.sleep(seconds)
        return forward(batch)

    engine._runner.forward = slow


def break_down(engine: Engine, message: str = "the device is gone") -> None:
    """The next step raises."""

    def broken(batch):
        raise RuntimeError(message)

    engine._runner.forward = broken


def is_idle(stats: EngineStats) -> bool:
    """No sequence, lease or KV block is held."""
    return (stats.running, stats.waiting, stats.leases, stats.kv_blocks_used) == (0, 0, 0, 0)


def wait_until_idle(engine: Engine, seconds: float = 20) -> EngineStats:
    """Cancellation is asynchronous: give it time, and return what is held then."""
    end = time.monotonic() + seconds
    while not is_idle(engine.stats()) and time.monotonic() < end:
        time.sleep(0.01)
    return engine.stats()
