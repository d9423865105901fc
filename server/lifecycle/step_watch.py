"""Watches over the engine: its end, and a step that hangs, take the server out."""

from __future__ import annotations

import asyncio

import structlog

from lora_runtime import Engine, EngineObserver, RunningStep

from .health import Health

log = structlog.get_logger("loramux.server")
_LOOK_S = 5.0


class FailureWatch(EngineObserver):
    """Watch that turns health off when the engine dies; called on the engine thread."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._loop = asyncio.get_running_loop()

    def on_engine_failed(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._health.failed)


class StepWatch:
    """Watch that turns health off while a step is older than `timeout_s` seconds.

    A step that hangs raises nothing: without the watch a server would be live, and never answer.
    """

    def __init__(self, engine: Engine, health: Health, timeout_s: float) -> None:
        self._engine, self._health, self._timeout_s = engine, health, timeout_s
        self._hangs = False

    async def run(self) -> None:
        """Look until cancelled; not at all where `timeout_s` is 0."""
        while self._timeout_s:
            self._look()
            await asyncio.sleep(min(self._timeout_s / 4, _LOOK_S))

    def _look(self) -> None:
        step = self._engine.running_step()
        if step is None or step.age_s <= self._timeout_s:
            if self._hangs:
                self._hangs = False
                log.warning("the step that hung has ended: live again")
                self._health.recovered()
        elif not self._hangs:
            self._hangs = True
            log.error("a step hangs: not live", limit_s=self._timeout_s, **_fields(step))
            self._health.stalled()


def _fields(step: RunningStep) -> dict[str, object]:
    return vars(step) | {"age_s": round(step.age_s, 1), "adapters": list(step.adapters)}
