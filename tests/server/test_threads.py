"""Pools of threads: what their work raises, and whom it can hold up."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest

import server
from lora_runtime import EngineStoppedError
from server.threads import Pool, Threads, Turns


def test_nothing_runs_on_the_threads_that_asyncio_shares() -> None:
    """Whoever has all of those would hold up everybody else."""
    shared = re.compile(r"to_thread\(|run_in_executor\(None")
    root = Path(server.__file__).parent
    assert not [path for path in root.rglob("*.py") if shared.search(path.read_text())]


def test_work_of_one_kind_holds_up_no_other() -> None:
    threads, go_on = Threads(), threading.Event()
    try:
        for _ in range(64):
            threads.submission.submit(go_on.wait)
        for pool in (threads.administration, threads.unloading, threads.reading, threads.answering):
            assert pool.submit(lambda: "done").result(10) == "done"
    finally:
        go_on.set()
        threads.close()


class Panic(BaseException):
    """As the exceptions of libraries in Rust."""


async def test_a_panic_becomes_an_exception() -> None:
    pool = Pool("test", 1)

    def work() -> None:
        raise Panic("index out of bounds")

    with pytest.raises(RuntimeError, match="Panic: index out of bounds"):
        await pool.run(work)
    assert await pool.run(lambda: "alive") == "alive"
    pool.close()


async def test_work_of_calls_that_are_gone_is_not_begun() -> None:
    pool, go_on, begun = Pool("test", 1), threading.Event(), threading.Event()
    late: list[str] = []

    def first() -> str:
        begun.set()
        go_on.wait()
        return "first"

    def second() -> str:
        raise AssertionError("it was begun")

    calls = [asyncio.ensure_future(pool.run(work, late.append)) for work in (first, second)]
    await asyncio.to_thread(begun.wait, 10)
    for call in calls:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    go_on.set()
    await pool.run(lambda: None)
    assert late == ["first"]
    pool.close()


async def test_what_waits_when_the_server_stops_is_told_so() -> None:
    pool, go_on = Pool("test", 1), threading.Event()
    running = asyncio.ensure_future(pool.run(go_on.wait))
    waiting = asyncio.ensure_future(pool.run(lambda: None))
    await asyncio.sleep(0)
    pool.close()
    with pytest.raises(EngineStoppedError):
        await waiting
    with pytest.raises(EngineStoppedError):
        await pool.run(lambda: None)
    go_on.set()
    await running


async def test_no_key_has_all_the_turns() -> None:
    turns, go_on, begun = Turns(2), asyncio.Event(), []

    async def take(*keys: str) -> None:
        async with turns.taken(*keys):
            begun.append(keys)
            await go_on.wait()

    calls = [asyncio.ensure_future(take("a", "x")) for _ in range(4)]
    calls += [asyncio.ensure_future(take("b", "x")), asyncio.ensure_future(take("b", "y"))]
    await asyncio.sleep(0.01)
    assert begun == [("a", "x"), ("a", "x"), ("b", "y")]
    calls.pop(2).cancel()
    go_on.set()
    await asyncio.gather(*calls)
    assert len(begun) == 5
    assert not turns._keys  # nothing is kept of callers that are gone
