"""Which calls are made anew, when, and which are not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from loramux_client import AsyncClient, CallError, Client

from ..support.stand_in import DO_NOT_RETRY, StandIn, standing_in

Code = grpc.StatusCode


@pytest_asyncio.fixture
async def server() -> AsyncIterator[StandIn]:
    async with standing_in() as stand_in:
        yield stand_in


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
async def test_a_refusal_is_not_seen(server: StandIn, code: grpc.StatusCode) -> None:
    server.refuse(code, times=2, trailers=(("grpc-retry-pushback-ms", "1"),))
    async with AsyncClient(server.target) as client:
        assert (await client.generate(prompt="hi")).text == "xxx"
        assert len(server.asked) == 3
        server.refuse(code, times=2, trailers=(("grpc-retry-pushback-ms", "1"),))
        assert len([event async for event in client.stream(prompt="hi")]) == 3
    assert len(server.asked) == 6


async def test_threads_have_the_same(server: StandIn) -> None:
    def use() -> int:
        with Client(server.target) as client:
            return len(list(client.stream(prompt="hi")))

    server.refuse(Code.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "1"),))
    assert await asyncio.to_thread(use) == 3
    assert len(server.asked) == 2


async def test_it_waits_as_long_as_the_server_says(server: StandIn) -> None:
    server.refuse(Code.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "600"),))
    began = time.monotonic()
    async with AsyncClient(server.target) as client:
        await client.generate(prompt="hi")
    assert time.monotonic() - began >= 0.6  # its own first backoff is 0.2 s and a fifth at most


async def test_at_five_it_gives_up(server: StandIn) -> None:
    server.refuse(Code.RESOURCE_EXHAUSTED, times=9, trailers=(("grpc-retry-pushback-ms", "1"),))
    async with AsyncClient(server.target) as client:
        with pytest.raises(CallError, match="refused"):
            await client.generate(prompt="hi")
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("code", "retry", "pushback"),
    [
        (Code.RESOURCE_EXHAUSTED, True, DO_NOT_RETRY),
        (Code.RESOURCE_EXHAUSTED, False, ()),
        (Code.UNAVAILABLE, False, ()),
        (Code.INVALID_ARGUMENT, True, ()),
        (Code.INTERNAL, True, ()),
        (Code.DEADLINE_EXCEEDED, True, ()),
    ],
)
async def test_what_does_not_help_is_not_tried(
    server: StandIn,
    code: grpc.StatusCode,
    retry: bool,
    pushback: tuple[tuple[str, str], ...],
) -> None:
    server.refuse(code, trailers=pushback)
    async with AsyncClient(server.target, retry=retry) as client:
        with pytest.raises(CallError) as caught:
            await client.generate(prompt="hi")
    assert caught.value.code is code
    assert len(server.asked) == 1


async def test_a_step_back_is_made_once(server: StandIn) -> None:
    """A rollback to the version before, made twice, is one too far."""
    server.refuse(Code.UNAVAILABLE)
    async with AsyncClient(server.target) as client:
        with pytest.raises(CallError):
            await client.rollback_adapter("a0")
        assert len(server.asked) == 1
        server.refuse(Code.UNAVAILABLE)
        assert len(await client.list_adapters()) == 2


async def test_the_deadline_is_that_of_all_tries(server: StandIn) -> None:
    server.refuse(Code.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "60000"),))
    async with AsyncClient(server.target, timeout_s=0.5) as client:
        with pytest.raises(CallError) as caught:
            await client.generate(prompt="hi")
    assert caught.value.code in (Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED)
    assert len(server.asked) == 1
