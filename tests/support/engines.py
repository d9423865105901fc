"""What an engine has inside, for tests that cannot see it from outside, and ways to make it slow,
broken or idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lora_runtime import Engine, EngineStats, RequestHandle
from lora_runtime.backends.backend import ModelRunner
from lora_runtime.scheduling.batch import StepBatch, StepOutput

Forward = Callable[[StepBatch], StepOutput]


def runner_of(engine: Engine) -> ModelRunner:
    """What computes its steps."""
    return engine._runner


def wrap_forward(engine: Engine, wrap: Callable[[Forward], Forward]) -> None:
    """Compute every step from now on by what `wrap` makes of the forward."""
    runner: Any = runner_of(engine)  # whose forward is a method
    runner.forward = wrap(runner.forward)


def slow_down(engine: Engine, seconds: float = 0.01) -> None:
    """Every step takes `seconds` longer: what is submitted is still running a moment later."""

    def wrap(forward: Forward) -> Forward:
        def slow(batch: StepBatch) -> StepOutput:
            time.sleep(seconds)
            return forward(batch)

        return slow

    wrap_forward(engine, wrap)


class HangingSteps:
    """Steps that hang until `open` is set; `reached` is set when the first does."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.open, self.reached = threading.Event(), threading.Event()

        def wrap(forward: Forward) -> Forward:
            def wait(batch: StepBatch) -> StepOutput:
                self.reached.set()
                self.open.wait()
                return forward(batch)

            return wait

        wrap_forward(engine, wrap)


def break_down(engine: Engine, message: str = "the device is gone") -> None:
    """The next step raises."""

    def broken(batch: StepBatch) -> StepOutput:
        raise RuntimeError(message)

    wrap_forward(engine, lambda forward: broken)


def running_of(engine: Engine, tenant: str) -> int:
    """Of an adapter, the sequences that run at this moment."""
    return sum(s.tenant == tenant for s in list(engine._scheduler.running))


def counted_by_limits(engine: Engine) -> dict[str, int]:
    """By adapter, the sequences that its limits count: those that have not ended."""
    return dict(engine._limits._unfinished)


def open_choices(handle: RequestHandle) -> int:
    """Choices whose last event the engine has not delivered."""
    return handle._open_choices


def is_unfinished(handle: RequestHandle) -> bool:
    """Nothing is there to be read, or more is to come."""
    return not handle._ready() or handle._open_choices > 0


def is_idle(stats: EngineStats) -> bool:
    """No sequence, lease or KV block is held."""
    return (stats.running, stats.waiting, stats.leases, stats.kv_blocks_used) == (0, 0, 0, 0)


def wait_until_idle(engine: Engine, seconds: float = 20) -> EngineStats:
    """Cancellation is asynchronous: give it time, and return what is held then."""
    end = time.monotonic() + seconds
    while not is_idle(engine.stats()) and time.monotonic() < end:
        time.sleep(0.01)
    return engine.stats()


@contextmanager
def at_once(engine: Engine) -> Iterator[None]:
    """What is submitted meanwhile reaches the engine thread together: its first steps are shared."""
    with engine._inbox._changed:
        yield


def given_back(engine: Engine) -> bool:
    """No request, sequence, lease, KV block, slot or place under a limit is held."""
    versions = engine._store._registry.versions.values()
    return (
        is_idle(wait_until_idle(engine))
        and not engine._loop._live
        and not engine._inbox._unfinished_requests
        and not counted_by_limits(engine)
        and not any(v.running or v.leases for v in versions)
        and not engine._scheduler.running
        and not len(engine._scheduler.waiting)
    )
