"""A step that hangs: neither live nor ready, said once, and back when it ends after all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from lora_runtime import Engine, RunningStep
from server.declared import DeclaredStatus
from server.lifecycle.health import Health
from server.lifecycle.readiness import NotReady, Readiness, ServerState
from server.lifecycle.step_watch import StepWatch

from ..support.engines import HangingSteps
from ..support.servers import Harness, make_settings, running

Status = health_pb2.HealthCheckResponse
SERVICES = ("live", "", "loramux.v1.Inference")


class Ages:
    """An engine that says of a step's age what it is told to."""

    def __init__(self, ages: list[float | None]) -> None:
        self._ages = iter(ages)

    def running_step(self) -> RunningStep | None:
        age = next(self._ages)
        return None if age is None else RunningStep(age, 1, 1, ())


@pytest_asyncio.fixture
async def impatient(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AsyncIterator[Harness]:
    settings = make_settings(tiny_base, {"a1": tiny_adapters["a1"]}, step_timeout_s=1)
    async with running(settings) as served:
        yield served


async def until(served: Harness, wanted: int) -> None:
    """Waits until every health service says so."""
    for name in SERVICES:
        request = health_pb2.HealthCheckRequest(service=name)
        async for answer in served.health.Watch(request, timeout=60):
            if answer.status == wanted:
                break


@pytest.mark.slow
async def test_a_step_that_hangs_and_ends_after_all(impatient: Harness) -> None:
    gate = HangingSteps(impatient.app.engine)
    with capture_logs() as lines:
        call = asyncio.ensure_future(
            impatient.generate(prompt="abc", max_new_tokens=1, adapter_id="a1")
        )
        await until(impatient, Status.NOT_SERVING)
        age = impatient.app.metrics.registry.get_sample_value("loramux_running_step_seconds")
        assert age is not None
        assert age > 0.2
        await asyncio.sleep(0.3)  # looks that find nothing new
        gate.open.set()
        await call
        await until(impatient, Status.SERVING)
    hangs, ended = [line for line in lines if "hang" in line["event"] or "hung" in line["event"]]
    assert hangs["log_level"] == "error"
    assert hangs["age_s"] >= 1
    assert (hangs["tokens"], hangs["sequences"], hangs["adapters"]) == (3, 1, ["a1"])
    assert ended["event"] == "the step that hung has ended: live again"
    assert b"loramux_running_step_seconds 0.0" in generate_latest(impatient.app.metrics.registry)


async def test_every_look() -> None:
    """Within the limit, over it, over it still, and over it again with a later step."""
    ages = [None, 0.9, 1.1, 1.3, 0.1, None, 1.1]
    states = [True, True, False, False, True, True, False]
    health, engine = Health((), Readiness()), Ages(ages)
    health.show()
    watch = StepWatch(cast(Engine, engine), health, timeout_s=1)
    for state in states:
        watch._look()
        assert (await shown(health))[0] is state


@pytest.mark.slow
async def test_a_step_that_hangs_while_the_server_drains(impatient: Harness) -> None:
    gate = HangingSteps(impatient.app.engine)
    call = asyncio.ensure_future(impatient.generate(prompt="abc", max_new_tokens=1))
    await until(impatient, Status.NOT_SERVING)
    impatient.app._health.draining()
    gate.open.set()
    await call
    request = health_pb2.HealthCheckRequest(service="live")
    async for answer in impatient.health.Watch(request, timeout=60):
        if answer.status == Status.SERVING:
            break
    ready = await impatient.health.Check(health_pb2.HealthCheckRequest())
    assert ready.status == Status.NOT_SERVING


async def test_a_step_that_hangs_does_not_keep_a_stop(impatient: Harness) -> None:
    gate = HangingSteps(impatient.app.engine)
    call = asyncio.ensure_future(impatient.generate(prompt="abc", max_new_tokens=1))
    await asyncio.to_thread(gate.reached.wait)
    await impatient.app.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    gate.open.set()


async def test_no_limit(tiny_base: Path) -> None:
    async with running(make_settings(tiny_base, step_timeout_s=0)) as served:
        assert served.app._watching is not None
        await served.app._watching  # it has ended


class NothingDeclared:
    is_awaited = False

    def awaited(self) -> list[DeclaredStatus]:
        return []


async def shown(health: Health) -> list[bool]:
    answers = [
        await health.Check(health_pb2.HealthCheckRequest(service=name), cast(Any, None))
        for name in ("live", "")
    ]
    return [answer.status == Status.SERVING for answer in answers]


async def test_what_came_while_it_stalled_counts_afterwards() -> None:
    readiness = Readiness()
    health = Health((), readiness)
    health.show()
    assert await shown(health) == [True, False]
    health.stalled()
    assert await shown(health) == [False, False]
    readiness.base_loaded(NothingDeclared(), lambda: None)
    health.show()
    assert readiness.state is ServerState.STALLED
    assert readiness.reasons() == {NotReady.STEP_HANGS: 1}
    assert await shown(health) == [False, False]
    health.recovered()
    assert await shown(health) == [True, True]
    health.stalled()
    health.failed()
    health.recovered()
    assert await shown(health) == [False, False]
