"""The budget of bodies: the oldest gives way, and only where there is no room."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from server.http.bodies.budget import Body, BodyBudget
from server.http.bodies.reading import _BODIES
from server.http.errors import HttpError

from ....support.raw_http import raw, request
from ..conftest import MAX_BYTES, MakeFront


async def test_the_oldest_body_gives_way() -> None:
    budget, begun = BodyBudget(100), asyncio.Event()
    go_on = asyncio.Event()

    async def slow(size: int) -> None:
        with budget.body() as body:
            body.take(size)
            begun.set()
            await go_on.wait()

    first, second = asyncio.create_task(slow(60)), asyncio.create_task(slow(40))
    await begun.wait()
    with budget.body() as third:
        third.take(50)
    with pytest.raises(HttpError, match="too many large bodies"):
        await first
    assert not second.done()
    go_on.set()
    await second
    assert budget._left == 100


async def test_a_body_alone_has_all_of_it_and_no_more() -> None:
    budget = BodyBudget(100)
    with budget.body() as body:
        body.take(100)
    with pytest.raises(HttpError), budget.body() as body:
        body.take(101)
    assert budget._left == 100


async def test_the_end_of_a_call_is_its_own() -> None:
    budget, held = BodyBudget(100), list[Body]()

    async def call() -> None:
        with budget.body() as body:
            held.append(body)
            body.take(100)
            await asyncio.sleep(60)

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget._left == 100


async def test_bodies_that_never_end_do_not_keep_others_out(make_front: MakeFront) -> None:
    most = request("/echo", b"x" * MAX_BYTES)
    async with make_front() as front, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw(front.url)) for _ in range(_BODIES + 1)]
        for client in clients:
            await client.send(most[:-1])
        first, *_, last = clients
        assert (await first.answer()).status == 503
        await last.send(b"x")
        assert (await last.answer()).json()["error"]["code"] == "invalid_json"
