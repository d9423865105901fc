"""Turns of those who submit: nobody waits for another caller, nor for himself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from unittest import mock

import grpc
import pytest

from lora_runtime import AdapterUnavailableError, Request, SamplingParams
from server.auth.tokens import Caller
from server.threads import Turns

from ...support.servers import Harness, refused

LONG = "x " * 200
"""A prompt that goes to a thread."""


async def test_calls_with_the_same_adapters_do_not_wait_for_each_other(served: Harness) -> None:
    """Adapters have turns at the threads: calls that took them in their own order would hold what
    others want."""
    orders = [["a0", "a1"], ["a1", "a0"], ["a0", "a0"], ["", "a0"]] * 40
    calls = [
        served.generate(
            prompt=LONG, adapters=[{"adapter_id": name} for name in order], max_new_tokens=1
        )
        for order in orders
    ]
    ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
    codes = [e.code() if isinstance(e, grpc.aio.AioRpcError) else None for e in ends]
    bad = grpc.StatusCode.INVALID_ARGUMENT
    assert codes == [None, None, bad, bad] * 40


@pytest.mark.parametrize("adapter_id", ["", "a0"])
async def test_a_caller_has_no_turns_of_others(
    served: Harness, monkeypatch: pytest.MonkeyPatch, adapter_id: str
) -> None:
    submission, go_on = served.app._operations.submission, threading.Event()
    request = Request(prompt="x", adapter_id=adapter_id)
    monkeypatch.setattr(submission, "_callers", Turns(2))
    monkeypatch.setattr(submission, "_adapters", Turns(4))

    async def call(name: str, work: Callable[[], Any]) -> Any:
        who = Caller(name=name, token_sha256="0" * 64, adapters=("*",))
        return await submission._in_turn(request, who, work)

    slow = []
    try:
        for _ in range(5):
            slow.append(asyncio.ensure_future(call("slow", go_on.wait)))
            await asyncio.sleep(0)
        assert await asyncio.wait_for(call("quick", lambda: "done"), 20) == "done"
    finally:
        go_on.set()
        await asyncio.gather(*slow)


async def test_a_reading_that_failed_at_once_is_reported_once(
    served: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: Future[None] = Future()
    failed.set_exception(AdapterUnavailableError("gone", "a0"))
    engine = served.app.engine
    monkeypatch.setattr(engine, "prepare", lambda request: failed)
    monkeypatch.setattr(engine, "submit", lambda request: pytest.fail("it is read again"))
    error = await refused(
        served.generate(adapter_id="a0", prompt=LONG), grpc.StatusCode.FAILED_PRECONDITION
    )
    assert "gone" in error.details()


async def test_a_burst_goes_in_by_threads(served: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = served.app.engine
    straight = mock.Mock(side_effect=engine.submit_at_once)
    by_thread = mock.Mock(side_effect=engine.submit)
    monkeypatch.setattr(engine, "submit_at_once", straight)
    monkeypatch.setattr(engine, "submit", by_thread)
    submission = served.app._operations.submission
    who = Caller(name="x", token_sha256="0" * 64, adapters=("*",))
    request = Request(prompt="hi", sampling=SamplingParams(max_new_tokens=1))
    handles = await asyncio.gather(*(submission.submit(request, who) for _ in range(40)))
    for handle in handles:
        await handle.aresult()
    assert (straight.call_count, by_thread.call_count) == (32, 8)
    await (await submission.submit(request, who)).aresult()
    assert straight.call_count == 33
