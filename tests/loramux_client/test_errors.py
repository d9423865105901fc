"""Whatever keeps a call from its answer is a CallError."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from loramux_client import AsyncClient, CallError, Client

from ..support.stand_in import StandIn, standing_in

Code = grpc.StatusCode
Use = Callable[[Any], Any]


@pytest_asyncio.fixture
async def server() -> AsyncIterator[StandIn]:
    async with standing_in() as stand_in:
        yield stand_in


@pytest_asyncio.fixture
async def broken() -> AsyncIterator[str]:
    """A server whose answers are none."""

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"\xff"

    async def unary(request: bytes, context: Any) -> bytes:
        return b"\xff"

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            if details.method.endswith("Stream"):
                return grpc.unary_stream_rpc_method_handler(stream)
            return grpc.unary_unary_rpc_method_handler(unary)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def generate(client: Any) -> Any:
    return client.generate(prompt="hi")


def begin(client: Client) -> Any:
    return next(client.stream(prompt="hi"))


async def begin_async(client: AsyncClient) -> Any:
    return await anext(client.stream(prompt="hi"))


def ask(client: Any) -> Any:
    return client.server_info()


async def code(call: Awaitable[Any]) -> grpc.StatusCode | None:
    with pytest.raises(CallError) as caught:
        await call
    return caught.value.code


SYNC: list[Use] = [generate, begin, ask]
ASYNC: list[Use] = [generate, begin_async, ask]


@pytest.mark.parametrize("use", SYNC)
async def test_of_a_client(server: StandIn, broken: str, use: Use) -> None:
    with Client(broken) as client:
        assert await code(asyncio.to_thread(use, client)) is Code.INTERNAL
    with Client(server.target, token="é") as client:
        assert await code(asyncio.to_thread(use, client)) is Code.INTERNAL
    client.close()
    assert await code(asyncio.to_thread(use, client)) is Code.CANCELLED


@pytest.mark.parametrize("use", ASYNC)
async def test_of_an_async_client(server: StandIn, broken: str, use: Use) -> None:
    async with AsyncClient(broken) as client:
        assert await code(use(client)) is Code.INTERNAL
    async with AsyncClient(server.target, token="é") as client:
        assert await code(use(client)) is Code.INTERNAL
    await client.close()
    assert await code(use(client)) is Code.CANCELLED


async def test_no_deadline(server: StandIn) -> None:
    """More seconds than gRPC's clock has are none, too."""
    async with AsyncClient(server.target) as client:
        for seconds in (math.inf, 1e12):
            await client.generate(prompt="hi", timeout_s=seconds)
            await client.server_info(timeout_s=seconds)
    with Client(server.target) as sync:
        await asyncio.to_thread(lambda: sync.server_info(timeout_s=math.inf))
    assert {one.seconds_left for one in server.asked} <= {None}
