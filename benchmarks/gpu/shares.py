"""Where the engine thread's time goes while streams run: a clock around each part of its loop."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lora_runtime import Engine
from lora_runtime.backends.triton.runner import TritonRunner
from lora_runtime.engine import compute


class Shares:
    """Seconds by part, and calls; a part inside another counts in both."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._collected = 0.0

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **named)
            finally:
                self.seconds[name] += time.perf_counter() - started
                self.calls[name] += 1

        return run

    def collected(self, phase: str, info: dict[str, Any]) -> None:
        """A callback of gc."""
        if phase == "start":
            self._collected = time.perf_counter()
        else:
            self.seconds[f"gc {info['generation']}"] += time.perf_counter() - self._collected
            self.calls[f"gc {info['generation']}"] += 1


@contextmanager
def watched(engine: Engine) -> Iterator[Shares]:
    """While it is entered, the parts of the engine's loop are timed; enter it while nothing runs."""
    shares, engine_loop, patched = Shares(), engine._loop, []
    computer = engine_loop._computer

    def patch(owner: Any, attribute: str, name: str) -> None:
        patched.append((owner, attribute, original := getattr(owner, attribute)))
        setattr(owner, attribute, shares.timed(name, original))

    for owner, attribute, name in [
        (engine_loop.scheduler, "schedule", "schedule"),
        (computer._planner, "plan", "plan"),
        (computer._runner, "forward", "forward"),
        (compute, "sample", "sample"),
        (engine_loop, "_deliver", "deliver"),
        (engine_loop, "_take_in", "take in"),
        (engine_loop, "_report_step", "report"),
        (engine_loop, "_step", "step"),
    ]:
        patch(owner, attribute, name)
    if isinstance(runner := computer._runner, TritonRunner):
        patch(runner.decode.buffers, "fill", "forward: fill")
        patch(runner.decode.launcher, "launch", "forward: launch")
        patch(runner.decode.buffers, "read_greedy", "forward: wait")
    gc.callbacks.append(shares.collected)
    try:
        yield shares
    finally:
        gc.callbacks.remove(shares.collected)
        for owner, attribute, original in reversed(patched):
            setattr(owner, attribute, original)
