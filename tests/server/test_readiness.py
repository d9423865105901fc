"""Readiness without a server: when it comes, and what the log says until then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.declared import DeclaredState, DeclaredStatus
from server.gauges import ReadinessGauges
from server.lifecycle.readiness import NotReady, Readiness, ServerState

from ..support.servers import make_settings

State = DeclaredState


class Waiting:
    """What is awaited, as told."""

    def __init__(self, *statuses: DeclaredStatus) -> None:
        self.statuses = list(statuses)

    @property
    def is_awaited(self) -> bool:
        return bool(self.statuses)

    def awaited(self) -> list[DeclaredStatus]:
        return self.statuses


class Bench:
    """A readiness on a clock of its own."""

    def __init__(self, ready_after_s: float = 0) -> None:
        self.now = 100.0
        self.readiness = Readiness(ready_after_s, clock=lambda: self.now)
        self.waiting = Waiting()
        self.ready = 0

    def load(self, *statuses: DeclaredStatus) -> None:
        self.waiting.statuses = list(statuses)
        self.readiness.base_loaded(self.waiting, self._on_ready)

    def change(self, *statuses: DeclaredStatus, after_s: float = 0) -> None:
        self.now += after_s
        self.waiting.statuses = list(statuses)
        self.readiness.declared_changed()

    def _on_ready(self) -> None:
        self.ready += 1


def one(name: str, state: DeclaredState = State.PENDING, error: str = "") -> DeclaredStatus:
    return DeclaredStatus(name, f"s3://bucket/{name}", state, error=error)


def events(logs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [log["event"] for log in logs]


async def test_nothing_awaited_is_ready_at_once() -> None:
    bench = Bench()
    assert bench.readiness.state is ServerState.LOADING
    bench.now += 2
    with capture_logs() as logs:
        bench.load()
    assert (bench.readiness.state, bench.ready) == (ServerState.READY, 1)
    assert logs == [{"event": "ready", "log_level": "info", "seconds": 2.0, "waited_s": 0.0}]


async def test_what_is_awaited_is_said_when_it_changes() -> None:
    bench = Bench()
    place = DeclaredStatus("", "/etc/adapters.yaml", State.FAILED, error="is not\n  YAML")
    with capture_logs() as logs:
        bench.load(one("a"))
        bench.change(one("a", State.LOADING))
        for state in (State.LOADING, State.FAILED, State.LOADING, State.FAILED):
            bench.change(one("a", state, "no answer"), place, after_s=11)
        bench.change(place, after_s=1)
        bench.change(place, after_s=1)  # too soon
        bench.change(place, after_s=11)
        bench.change(after_s=1)
        bench.change(place, after_s=11)
    assert (bench.readiness.state, bench.ready) == (ServerState.READY, 1)
    assert events(logs) == [
        "not ready: waiting for a (loading)",
        "not ready: waiting for a (loading: no answer), /etc/adapters.yaml (is not YAML)",
        "not ready: waiting for /etc/adapters.yaml (is not YAML)",
        "ready",
    ]
    assert [log["log_level"] for log in logs] == ["info", "warning", "warning", "info"]
    assert logs[-1]["waited_s"] == 58.0


async def test_a_change_too_soon_is_said_later() -> None:
    bench = Bench()
    with capture_logs() as logs:
        bench.load(one("a"))
        bench.change(one("a"))
        bench.change(one("b"), after_s=1)
        assert len(logs) == 1
        bench.change(one("b"), after_s=10)
    assert events(logs)[1:] == ["not ready: waiting for b (pending)"]


async def test_many_names_are_counted() -> None:
    bench = Bench()
    with capture_logs() as logs:
        bench.load(one("a"))
        bench.change(*(one(f"a{i}", State.FAILED, "x" * 999) for i in range(5000)))
    assert logs[0]["count"] == 5000
    assert logs[0]["event"].endswith(" and 4990 more")
    assert len(logs[0]["event"]) < 3000


async def test_ready_without_what_is_missing_in_the_end() -> None:
    bench = Bench(ready_after_s=0.01)
    with capture_logs() as logs:
        bench.load(one("a", State.FAILED, "no such bucket"), one("b"))
        while not bench.ready:
            await asyncio.sleep(0.01)
        bench.change()
    assert (bench.readiness.state, bench.ready) == (ServerState.READY, 1)
    late = logs[0]
    assert late["event"] == "ready after 0.01 s without a (failed: no such bucket), b (pending)"
    assert (late["log_level"], late["count"], events(logs)[1:]) == ("warning", 2, ["ready"])


def test_by_default_a_broken_adapter_stops_a_rollout() -> None:
    assert make_settings(Path("b")).ready_after_s == 0
    with pytest.raises(ValueError, match="ready_after_s"):
        make_settings(Path("b"), ready_after_s=-1)


async def test_without_a_limit_it_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []

    def call_now(delay: float, call: Callable[[], None]) -> None:
        delays.append(delay)
        call()

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_now)
    bench = Bench()
    with capture_logs() as logs:
        bench.load(one("a"))
    # But a first look that hangs is said.
    assert events(logs) == ["not ready: waiting for a (pending)"]
    assert len(delays) == 1
    assert bench.readiness.state is ServerState.NOT_READY


@pytest.mark.parametrize("end", ["draining", "failed"])
async def test_what_ends_never_turns_ready(end: str) -> None:
    for loaded in (False, True):
        bench = Bench(ready_after_s=0.001)
        if loaded:
            bench.load(one("a"))
        getattr(bench.readiness, end)()
        bench.load()
        bench.change()
        await asyncio.sleep(0.01)
        assert (bench.readiness.state, bench.ready) == (ServerState(end), 0)
    bench.readiness.failed()
    bench.readiness.draining()
    assert bench.readiness.state is ServerState.FAILED


async def test_the_metrics_say_why() -> None:
    def seen() -> tuple[float, dict[str, float]]:
        ready, reasons = ReadinessGauges(bench.readiness).collect()
        values = {s.labels["reason"]: s.value for s in reasons.samples}
        assert values.keys() == {reason.value for reason in NotReady}
        return ready.samples[0].value, {name: n for name, n in values.items() if n}

    bench = Bench()
    assert seen() == (0, {"loading_base": 1})
    place = DeclaredStatus("", "/etc/adapters.yaml", State.FAILED, error="is not YAML")
    bench.load(place, one("a"), one("b", State.LOADING), one("c", State.FAILED))
    assert seen() == (0, {"manifest_unreadable": 1, "adapter_pending": 2, "adapter_failed": 1})
    bench.change()
    assert seen() == (1, {})
    bench.readiness.draining()
    assert seen() == (0, {"draining": 1})
    bench.readiness.failed()
    assert seen() == (0, {"engine_failed": 1})
