"""Requests that an event loop submits itself: the same answers and refusals, and none that take long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_runtime import (
    ChatMessage,
    Engine,
    EngineObserver,
    InvalidRequestError,
    QueueFullError,
    Request,
    RequestHandle,
    SamplingParams,
    StructuredAnswer,
    UnknownAdapterError,
)
from lora_runtime.engine import inbox

from ...support.processes import wait_until

SHORT = SamplingParams(max_new_tokens=3)
LIVE: Any = SimpleNamespace(sequences=[object()])
Make = Callable[..., Engine]


class Rejections(EngineObserver):
    """The errors of requests that were not taken."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def on_request_rejected(self, request: Request, error: Exception) -> None:
        self.errors.append(error)


def at_once(engine: Engine, *requests: Request) -> list[RequestHandle | None]:
    async def submit() -> list[RequestHandle | None]:
        return [engine.submit_at_once(request) for request in requests]

    return asyncio.run(submit())


async def submitted(engine: Engine, request: Request) -> RequestHandle:
    """Submit again where the engine thread had the adapters' lock that very moment."""
    async with asyncio.timeout(30):
        while (handle := engine.submit_at_once(request)) is None:
            await asyncio.sleep(0)
    return handle


@contextmanager
def taken_lock(engine: Engine) -> Iterator[threading.Thread]:
    """Let another thread have the adapters' lock, for as long as it lives."""
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with engine._store._registry.locked():
            taken.set()
            free.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(60)
    try:
        yield thread
    finally:
        free.set()
        thread.join()


async def test_it_answers_as_submit_does(make_engine: Make, tiny_adapters: dict[str, Path]) -> None:
    engine = make_engine()
    for name in ("a1", "a2"):
        engine.load_adapter(tiny_adapters[name])
    requests = [
        Request(prompt="hello", adapter_id=name, sampling=SHORT) for name in ("", "a1", "a2")
    ]
    handles = [await submitted(engine, request) for request in requests]
    for request, handle in zip(requests, handles, strict=True):
        assert (await handle.aresult()).text == engine.generate(request).text


async def test_what_came_together_runs_together(make_engine: Make) -> None:
    engine = make_engine()
    engine.generate(Request(prompt="x", sampling=SHORT))
    before = engine.stats().steps
    handles = [
        engine.submit_at_once(Request(prompt="hello", sampling=SamplingParams(max_new_tokens=1)))
        for _ in range(8)
    ]
    assert await asyncio.gather(*(h.aresult() for h in handles if h is not None))
    assert engine.stats().steps <= before + 2


async def test_what_came_during_a_step_waits_for_the_rest_of_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox, "_GATHERING_S", 30)
    box = inbox.Inbox(8, 8)
    box.open()
    box.submit(LIVE, asyncio.get_running_loop())
    taken = asyncio.get_running_loop().run_in_executor(None, box.take, None)
    box.submit(LIVE, asyncio.get_running_loop())
    mail = await asyncio.wait_for(taken, 10)
    assert mail is not None
    assert mail.requests == [LIVE, LIVE]


def test_a_loop_that_ended_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "_GATHERING_S", 0.01)
    box = inbox.Inbox(8, 8)
    box.open()

    async def submit() -> None:
        box.submit(LIVE, asyncio.get_running_loop())

    asyncio.run(submit())
    assert box.take(None)
    monkeypatch.setattr(inbox, "_GATHERING_S", 30)
    box.submit(LIVE)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(box.take, None).result(10)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "x" * 257},
        {"prompt": None, "token_ids": (5,) * 257},
        {"prompt": None, "messages": (ChatMessage("user", "hi"),)},
        {"sampling": SamplingParams(structured=StructuredAnswer("json_object"))},
        {"sampling": SamplingParams(n=3)},
        {"sampling": SamplingParams(logit_bias=tuple((i, 0.5) for i in range(257)))},
        {"parse_answer": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_takes_longer_is_left_to_a_thread(make_engine: Make, changes: dict[str, Any]) -> None:
    engine = make_engine()
    assert at_once(engine, Request(**({"prompt": "hello"} | changes))) == [None]
    assert engine.stats().waiting + engine.stats().running == 0


def test_an_adapter_that_was_not_read_is_left_to_a_thread(
    make_engine: Make, tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=1)
    assert at_once(engine, Request(prompt="hello", adapter_id="nobody")) == [None]
    with pytest.raises(UnknownAdapterError):
        engine.submit(Request(prompt="hello", adapter_id="nobody"))
    engine.load_adapter(tiny_adapters["a1"])
    (registration,) = engine.registrations()
    engine.unload_adapter("a1")
    engine.register(registration)
    assert at_once(engine, Request(prompt="hello", adapter_id="a1")) == [None]
    assert engine.stats().loading_adapters == 0


def test_a_lock_that_is_taken_is_left_to_a_thread(
    make_engine: Make, tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine()
    engine.load_adapter(tiny_adapters["a1"])
    request = Request(prompt="hello", adapter_id="a1", sampling=SHORT)
    with ThreadPoolExecutor() as pool:
        with taken_lock(engine):
            assert at_once(engine, request) == [None]
            answer = pool.submit(engine.generate, request)
        assert answer.result(60).text == engine.generate(request).text
    wait_until(lambda: engine.stats().leases == 0)


def test_a_refusal_waits_for_no_lock(
    make_engine: Make, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    engine.load_adapter(tiny_adapters["a1"])
    holders: list[threading.Thread] = []
    with ExitStack() as stack:

        def refuse(*_: Any) -> None:  # the request has its adapter by now
            holders.append(stack.enter_context(taken_lock(engine)))
            raise InvalidRequestError.of("prompt", "refused")

        monkeypatch.setattr(engine._intake._builder, "build", refuse)
        with pytest.raises(InvalidRequestError, match="refused"):
            asyncio.run(submitted(engine, Request(prompt="hello", adapter_id="a1")))
        assert holders[0].is_alive()
    wait_until(lambda: engine.stats().leases == 0)


def test_it_refuses_as_submit_does(make_engine: Make) -> None:
    engine = make_engine(max_running=1, max_waiting=1)
    with pytest.raises(InvalidRequestError, match="temperature"):
        at_once(engine, Request(prompt="hello", sampling=SamplingParams(temperature=-1)))
    long = Request(prompt="hello", sampling=SamplingParams(max_new_tokens=64, ignore_eos=True))
    with pytest.raises(QueueFullError):
        at_once(engine, *(long,) * 16)


async def test_a_shutdown_on_the_loop_drains_what_that_has_submitted(make_engine: Make) -> None:
    engine = make_engine()
    handle = await submitted(engine, Request(prompt="hello", sampling=SHORT))
    assert engine.shutdown(drain_s=60)
    assert handle.result().choices[0].token_ids


def test_without_a_loop_nothing_is_refused(make_engine: Make) -> None:
    engine, heard = make_engine(), Rejections()
    engine.add_observer(heard)
    with pytest.raises(RuntimeError, match="no running event loop"):
        engine.submit_at_once(Request(prompt="hello"))
    assert heard.errors == []


def test_a_loop_that_ended_leaves_others_their_wake_ups(make_engine: Make) -> None:
    engine = make_engine()
    one = Request(prompt="hello", sampling=SHORT)
    at_once(engine, one)  # its loop has ended before the engine thread was woken

    async def ask() -> str:
        handle = await submitted(engine, one)
        return (await asyncio.wait_for(handle.aresult(), 30)).text

    assert asyncio.run(ask()) == engine.generate(one).text
