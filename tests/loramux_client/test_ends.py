"""How calls end before their answers do: cancelled, closed, out of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
import pytest_asyncio
from loramux_client import AsyncClient, CallError, Client, Stream

from ..support.stand_in import StandIn, standing_in

Code = grpc.StatusCode


@pytest_asyncio.fixture
async def server() -> AsyncIterator[StandIn]:
    """Its streams stop behind their first message."""
    async with standing_in() as stand_in:
        stand_in.holds = asyncio.Event()
        yield stand_in
        stand_in.holds.set()


async def ended(server: StandIn) -> str:
    return await asyncio.wait_for(server.ended.get(), 20)


def by_cancel(stream: Stream) -> None:
    stream.cancel()
    assert list(stream) == []


def by_leaving(stream: Stream) -> None:
    with stream:
        pass
    assert list(stream) == []


def by_forgetting(stream: Stream) -> None:
    """A call that nobody has any more."""


@pytest.mark.parametrize("end", [by_cancel, by_leaving, by_forgetting])
async def test_a_stream_of_a_thread(server: StandIn, end: Callable[[Stream], None]) -> None:
    def use() -> None:
        stream = client.stream(prompt="hi")
        assert next(stream).text == "x"
        end(stream)

    with Client(server.target) as client:
        await asyncio.to_thread(use)
        assert await ended(server) == "cancelled"


async def test_a_thread_ends_anothers_stream(server: StandIn) -> None:
    with Client(server.target) as client:
        stream = client.stream(prompt="hi")
        reading = asyncio.create_task(asyncio.to_thread(list, stream))
        while not server.asked:
            await asyncio.sleep(0.01)
        stream.cancel()
        assert len(await asyncio.wait_for(reading, 20)) <= 1
    assert await ended(server) == "cancelled"


async def test_closing_a_client_ends_its_calls(server: StandIn) -> None:
    with Client(server.target) as client:
        stream = client.stream(prompt="hi")
        await asyncio.to_thread(next, stream)
    with pytest.raises(CallError) as caught:
        await asyncio.to_thread(next, stream)
    assert caught.value.code is Code.CANCELLED
    assert await ended(server) == "cancelled"


async def test_closing_an_async_client_cancels_no_task_of_others(server: StandIn) -> None:
    async with AsyncClient(server.target) as client:
        stream = client.stream(prompt="hi")
        await anext(stream)
        reading = asyncio.ensure_future(anext(stream))
        whole = asyncio.create_task(client.generate(prompt="hi"))
        while len(server.asked) < 2:
            await asyncio.sleep(0.01)
    for task in (reading, whole):
        with pytest.raises(CallError) as caught:
            await task
        assert caught.value.code is Code.CANCELLED
    assert await ended(server) == "cancelled"


async def test_a_stream_of_a_task(server: StandIn) -> None:
    async with AsyncClient(server.target) as client:
        async with client.stream(prompt="hi") as stream:
            assert (await anext(stream)).text == "x"
        assert [event async for event in stream] == []
        assert await ended(server) == "cancelled"

        stream = client.stream(prompt="hi")
        await anext(stream)
        reading = asyncio.ensure_future(anext(stream, None))
        await asyncio.sleep(0)
        stream.cancel()  # while another task reads it
        assert await reading is None
        assert await ended(server) == "cancelled"


async def test_a_cancelled_task_is_cancelled(server: StandIn) -> None:
    async with AsyncClient(server.target) as client:
        stream = client.stream(prompt="hi")
        await anext(stream)
        for waiting in (anext(stream), client.generate(prompt="hi")):
            task = asyncio.ensure_future(waiting)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await ended(server) == "cancelled"


async def test_out_of_time(server: StandIn) -> None:
    async with AsyncClient(server.target) as client:
        stream = client.stream(prompt="hi", timeout_s=1)
        assert (await anext(stream)).text == "x"
        with pytest.raises(CallError) as caught:
            await anext(stream)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert await ended(server) == "cancelled"


async def test_a_stream_that_has_begun_is_not_begun_again(server: StandIn) -> None:
    server.breaks = True
    async with AsyncClient(server.target) as client:
        stream = client.stream(prompt="hi")
        assert (await anext(stream)).text == "x"
        with pytest.raises(CallError, match="broken"):
            await anext(stream)
    assert len(server.asked) == 1
