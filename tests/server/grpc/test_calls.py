"""Every call is told of once at its begin and once at its end, whatever ends it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from loramux.v1 import inference_pb2 as pb

from server.grpc.calls import UNKNOWN_METHOD, CallInterceptor

from ...support.servers import Harness, refused

Code = grpc.StatusCode
SERVICE = "test.Shapes"


class Recorder:
    """An observer that remembers; `settled` waits for the ends of what has begun."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def begun(self, method: str, peer: str) -> None:
        self.events.append(("begun", method, peer))

    def ended(self, method: str, peer: str, code: grpc.StatusCode) -> None:
        self.events.append(("ended", method, peer, code))

    async def settled(self) -> list[tuple[str, Code]]:
        """Methods and codes; fails unless each begin has one end."""
        for _ in range(500):
            begun = Counter(e[1:3] for e in self.events if e[0] == "begun")
            ended = Counter(e[1:3] for e in self.events if e[0] == "ended")
            if begun and begun == ended:
                return [(e[1].rpartition("/")[2], e[3]) for e in self.events if e[0] == "ended"]
            await asyncio.sleep(0.02)
        raise AssertionError(self.events)


class Broken:
    """An observer that fails, which hurts nobody."""

    def begun(self, method: str, peer: str) -> None:
        raise RuntimeError("begun")

    def ended(self, method: str, peer: str, code: grpc.StatusCode) -> None:
        raise RuntimeError("ended")


async def fate(request: bytes, context: grpc.aio.ServicerContext) -> None:
    """Ends the call as `request` asks."""
    if request == b"abort":
        await context.abort(Code.NOT_FOUND, "no")
    if request == b"set":
        context.set_code(Code.ABORTED)
    if request == b"raise":
        raise ValueError("oops")
    if request == b"hang":
        await asyncio.Event().wait()


async def unary_unary(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    await fate(request, context)
    return b"ok"


async def unary_stream(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    yield b"first"
    await fate(request, context)
    yield b"last"


async def writer(request: bytes, context: grpc.aio.ServicerContext) -> None:
    await context.write(b"first")
    await fate(request, context)
    await context.write(b"last")


async def stream_unary(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
    async for request in requests:
        await fate(request, context)
    return b"ok"


async def stream_stream(
    requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
) -> AsyncIterator[bytes]:
    yield b"first"
    async for request in requests:
        await fate(request, context)
    yield b"last"


HANDLERS: dict[str, Any] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler(unary_unary),
    "unary_stream": grpc.unary_stream_rpc_method_handler(unary_stream),
    "writer": grpc.unary_stream_rpc_method_handler(writer),
    "stream_unary": grpc.stream_unary_rpc_method_handler(stream_unary),
    "stream_stream": grpc.stream_stream_rpc_method_handler(stream_stream),
    "unreadable": grpc.unary_unary_rpc_method_handler(unary_unary, pb.GenerateRequest.FromString),
}


@asynccontextmanager
async def shapes(
    *observers: Any, inner: list[grpc.aio.ServerInterceptor] | None = None
) -> AsyncIterator[tuple[grpc.aio.Channel, CallInterceptor]]:
    calls = CallInterceptor(observers)
    server = grpc.aio.server(interceptors=[calls, *(inner or [])])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel, calls
    await server.stop(grace=None)


async def requests(*given: bytes) -> AsyncIterator[bytes]:
    for request in given:
        yield request


def start(channel: grpc.aio.Channel, method: str, request: bytes) -> Any:
    shape = method if method in HANDLERS and "_" in method else "unary_unary"
    shape = "unary_stream" if method == "writer" else shape
    call = getattr(channel, shape)(f"/{SERVICE}/{method}")
    return call(requests(request) if shape.startswith("stream") else request)


async def outcome(call: Any) -> Code:
    """Code of a call that is read to its end."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError:
        pass
    return await call.code()


async def closed(calls: CallInterceptor) -> None:
    while calls.open:
        await asyncio.sleep(0.01)


SHAPES = ["unary_unary", "unary_stream", "writer", "stream_unary", "stream_stream"]


@pytest.mark.parametrize("method", SHAPES)
@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"", Code.OK),
        (b"abort", Code.NOT_FOUND),
        (b"set", Code.ABORTED),
        (b"raise", Code.UNKNOWN),
    ],
)
async def test_ends_of_handlers(method: str, request_: bytes, code: Code) -> None:
    seen = Recorder()
    async with shapes(Broken(), seen) as (channel, calls):
        assert await outcome(start(channel, method, request_)) is code
        assert await seen.settled() == [(method, code)]
        assert calls.open == 0
    assert seen.events[0][2].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize("method", SHAPES)
async def test_a_caller_that_leaves(method: str) -> None:
    seen = Recorder()
    async with shapes(seen) as (channel, calls):
        call = start(channel, method, b"hang")
        while not seen.events:
            await asyncio.sleep(0.01)
        assert calls.open == 1
        call.cancel()
        assert await seen.settled() == [(method, Code.CANCELLED)]
        assert calls.open == 0


async def test_a_flood_of_callers_that_leave_at_once() -> None:
    seen = Recorder()
    async with shapes(seen) as (channel, calls):
        for i in range(100):
            call = start(channel, SHAPES[i % len(SHAPES)], b"hang")
            for _ in range(i % 7):
                await asyncio.sleep(0)
            call.cancel()
        assert await outcome(start(channel, "unary_unary", b"")) is Code.OK
        await closed(calls)
        await seen.settled()


async def test_calls_that_reach_no_handler() -> None:
    seen = Recorder()
    async with shapes(seen) as (channel, calls):
        assert await outcome(start(channel, "made-up", b"")) is Code.UNIMPLEMENTED
        assert await outcome(start(channel, "unreadable", b"\xff\xff")) is Code.UNKNOWN
        await closed(calls)
        silent: Any = channel.stream_unary(
            f"/{SERVICE}/unary_unary"
        )()  # its one message never comes
        while calls.open == 0:
            await asyncio.sleep(0.01)
        silent.cancel()
        await closed(calls)
        assert await seen.settled() == [
            (UNKNOWN_METHOD, Code.UNIMPLEMENTED),
            ("unreadable", Code.UNKNOWN),
            ("unary_unary", Code.CANCELLED),
        ]
    assert {event[2] for event in seen.events} == {""}


async def test_an_interceptor_behind_that_fails() -> None:
    class Failing(grpc.aio.ServerInterceptor):
        async def intercept_service(
            self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails
        ) -> Any:
            raise ValueError("oops")

    seen = Recorder()
    async with shapes(seen, inner=[Failing()]) as (channel, calls):
        assert await outcome(start(channel, "unary_unary", b"")) is Code.UNKNOWN
        assert len(await seen.settled()) == 1
        assert calls.open == 0


async def test_the_end_of_the_server_ends_calls() -> None:
    seen = Recorder()
    async with shapes(seen) as (channel, calls):
        running = [start(channel, method, b"hang") for method in SHAPES]
        while calls.open < len(running) or len(seen.events) < len(running):
            await asyncio.sleep(0.01)
    assert {code for _, code in await seen.settled()} == {Code.CANCELLED}
    assert calls.open == 0


async def test_the_servers_own_calls_are_counted(served: Harness) -> None:
    await served.generate(prompt="hi", max_new_tokens=1)
    await refused(served.generate(prompt=""), Code.INVALID_ARGUMENT)
    await refused(served.generate(prompt="x" * (5 << 20)), Code.RESOURCE_EXHAUSTED)
    unknown: Any = served.channel.unary_unary("/loramux.v1.Inference/Made-up")
    await refused(unknown(b""), Code.UNIMPLEMENTED)
    counted = served.app.metrics.registry.get_sample_value
    for method, code in (
        ("loramux.v1.Inference/Generate", "OK"),
        ("loramux.v1.Inference/Generate", "INVALID_ARGUMENT"),
        # Too large: gRPC's own refusal, of which the server sees that no message comes.
        ("loramux.v1.Inference/Generate", "CANCELLED"),
        (UNKNOWN_METHOD, "UNIMPLEMENTED"),
    ):
        # A caller may have its answer before the call's task has ended.
        while (calls := counted("loramux_rpcs_total", {"method": method, "code": code})) is None:
            await asyncio.sleep(0.01)
        assert calls == 1
