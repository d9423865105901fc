"""Stops: calls that run finish, calls that come late go elsewhere or fail as UNAVAILABLE."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from loramux.v1 import inference_pb2, inference_pb2_grpc

from server.lifecycle import drain
from server.lifecycle.connections import Address
from server.lifecycle.running_calls import RunningCalls

from ..support.engines import slow_down
from ..support.servers import Harness, make_settings, running

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
SHORT = inference_pb2.GenerateRequest(prompt="x", max_new_tokens=1)


def long(tokens: int) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(prompt="hi", max_new_tokens=tokens, ignore_eos=True)


async def last(stream: Any) -> Any:
    event = None
    while (read := await stream.read()) is not grpc.aio.EOF:
        event = read
    return event


async def code_of(call: Awaitable[Any]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return OK


@asynccontextmanager
async def callers(served: Harness, count: int) -> AsyncIterator[Counter[grpc.StatusCode]]:
    """Clients that call one after another on one connection until they are refused; what came."""
    codes: Counter[grpc.StatusCode] = Counter()

    async def one() -> None:
        while (code := await code_of(served.inference.Generate(SHORT))) is OK:
            codes[code] += 1
        codes[code] += 1

    tasks = [asyncio.ensure_future(one()) for _ in range(count)]
    while codes[OK] < count:
        await asyncio.sleep(0.01)
    yield codes
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("age_s", [0.0, 1.0], ids=["no age", "age"])
async def test_no_call_that_was_accepted_fails(tiny_base: Path, age_s: float) -> None:
    settings = make_settings(tiny_base, drain_s=60, max_connection_age_s=age_s)
    async with running(settings) as served:
        stream = served.inference.GenerateStream(long(300))
        await stream.read()
        async with callers(served, 16) as codes:
            await served.app.stop()
        assert set(codes) == {OK, UNAVAILABLE}
        assert codes[UNAVAILABLE] == 16  # once each: when nobody listened any more
        assert (await last(stream)).finish_reason == inference_pb2.FINISH_REASON_LENGTH


async def test_new_calls_are_served_until_the_delay_is_over(tiny_base: Path) -> None:
    async with running(make_settings(tiny_base, drain_s=60, drain_delay_s=1.5)) as served:
        stopping = asyncio.ensure_future(served.app.stop())
        request = health_pb2.HealthCheckRequest()
        while (
            await served.health.Check(request)
        ).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            await asyncio.sleep(0.01)
        assert await code_of(served.inference.Generate(SHORT)) is OK
        async with grpc.aio.insecure_channel(served.target) as new:
            assert await code_of(inference_pb2_grpc.InferenceStub(new).Generate(SHORT)) is OK
        await stopping
        assert await code_of(served.inference.Generate(SHORT)) is UNAVAILABLE


async def test_nobody_connects_while_calls_finish(tiny_base: Path) -> None:
    async with running(make_settings(tiny_base, drain_s=60)) as served:
        slow_down(served.app.engine)
        stream = served.inference.GenerateStream(long(400))
        await stream.read()
        stopping = asyncio.ensure_future(served.app.stop())
        await eventually(lambda: refuses_connections(served.app.port))
        while await code_of(served.inference.Generate(SHORT)) is OK:  # until told to go
            pass
        assert not stopping.done()
        stream.cancel()
        await stopping


async def test_what_does_not_finish_is_unavailable(tiny_base: Path) -> None:
    async with running(make_settings(tiny_base, drain_s=0.2)) as served:
        slow_down(served.app.engine, seconds=0.1)
        streams = [served.inference.GenerateStream(long(400)) for _ in range(3)]
        for stream in streams:
            await stream.read()
        await served.app.stop()
        for stream in streams:
            assert await code_of(last(stream)) is UNAVAILABLE


async def test_open_streams_of_health_do_not_hold_up_a_stop(tiny_base: Path) -> None:
    async with running(make_settings(tiny_base, drain_s=600)) as served:
        watch = served.health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        await asyncio.wait_for(served.app.stop(), 60)


async def test_work_that_hangs_does_not_hold_up_a_stop(tiny_base: Path) -> None:
    goes_on = threading.Event()
    async with running(make_settings(tiny_base)) as served:
        for _ in range(64):  # more than the loop has threads
            asyncio.get_running_loop().run_in_executor(None, goes_on.wait)
        try:
            await asyncio.wait_for(served.app.stop(), 60)
        finally:
            goes_on.set()


async def test_connections_are_renewed_at_their_age(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers: set[str] = set()

    begun = RunningCalls.begun

    def noted(calls: RunningCalls, method: str, peer: str) -> None:
        peers.add(peer)
        begun(calls, method, peer)

    monkeypatch.setattr(RunningCalls, "begun", noted)
    async with running(make_settings(tiny_base, max_connection_age_s=0.3)) as served:
        slow_down(served.app.engine)
        stream = served.inference.GenerateStream(long(100))  # longer than the age
        while len(peers) < 3:
            assert await code_of(served.inference.Generate(SHORT)) is OK
        assert (await last(stream)).finish_reason == inference_pb2.FINISH_REASON_LENGTH


@pytest.mark.slow
async def test_looks_at_many_connections_leave_time_for_calls(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    @contextmanager
    def many(port: int) -> Iterator[dict[Address, socket.socket]]:
        looks.append(time.monotonic())
        time.sleep(0.1)
        yield {}

    settings = make_settings(tiny_base, drain_s=60, max_connection_age_s=1)
    async with running(settings) as served:
        slow_down(served.app.engine)
        stream = served.inference.GenerateStream(long(300))
        await stream.read()
        monkeypatch.setattr(drain, "connections", many)
        await served.app.stop()
    assert looks[1] - looks[0] > 0.4


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not come about")
