"""A request's handle: whole answers however they are asked for, and a bound of what is left unread."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from itertools import islice

import pytest

from lora_runtime import (
    Engine,
    FinishReason,
    Generation,
    Request,
    RequestHandle,
    SamplingParams,
    Timings,
    TokenEvent,
    TokenLogprob,
    UnreadAnswerError,
    Usage,
)
from lora_runtime.requests import unread
from lora_runtime.requests.unread import Backlogs

from ...support.engines import is_idle, wait_until_idle

TOKENS = 700
TOP = tuple((token, -1.0) for token in range(20))


class Stand:
    """A handle and what the engine's side has done to it."""

    def __init__(self, choices: int = 1, backlogs: Backlogs | None = None) -> None:
        self.cancelled: list[RequestHandle] = []
        request = Request(prompt="hi", sampling=SamplingParams(n=choices))
        backlog = None if backlogs is None else backlogs.open()
        self.handle = RequestHandle(request, "it", (1,), (), self.cancelled.append, backlog)
        self._choices = choices

    def push(self, tokens: int, logprobs: bool = False, start: int = 0) -> None:
        """Of every choice in turn, so many tokens."""
        for token in range(start, start + tokens):
            for index in range(self._choices):
                chosen = (TokenLogprob(token, -1.0, TOP),) if logprobs else ()
                self.handle.push(TokenEvent(index, f"{index}:{token} ", (token,), chosen))

    def finish(self) -> None:
        for index in range(self._choices):
            end = FinishReason.EOS, Usage(1, 0, 1), Timings(0.0, 0.0, 0.0)
            self.handle.push(TokenEvent(index, "", (99,), (), *end))

    def check(self, done: Generation, tokens: int = TOKENS) -> None:
        for index, choice in enumerate(done.choices):
            assert choice.text == "".join(f"{index}:{token} " for token in range(tokens))
            assert choice.token_ids == (*range(tokens), 99)
            assert choice.finish_reason is FinishReason.EOS


WAYS: dict[str, Callable[[RequestHandle], Generation]] = {
    "result": lambda handle: handle.result(),
    "aresult": lambda handle: asyncio.run(handle.aresult()),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_result_is_whole_and_the_same_again(way: str) -> None:
    stand = Stand(choices=3)
    stand.push(TOKENS)
    engine = threading.Timer(0.05, stand.finish)
    engine.start()
    done = WAYS[way](stand.handle)
    engine.join()
    stand.check(done)
    assert all(WAYS[again](stand.handle) == done for again in WAYS)


def test_putting_an_answer_together_lets_the_event_loop_run() -> None:
    """Also where all of it was there already."""
    stand = Stand(choices=4)
    stand.push(TOKENS)
    stand.finish()
    turns = 0

    async def main() -> Generation:
        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        try:
            return await stand.handle.aresult()
        finally:
            ticking.cancel()

    stand.check(asyncio.run(main()))
    assert turns >= 4 * TOKENS // 256


def test_what_was_iterated_is_in_no_result() -> None:
    stand = Stand()
    stand.push(3)
    assert [event.token_ids for event in islice(stand.handle, 2)] == [(0,), (1,)]
    stand.finish()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="events were taken by iteration"):
            stand.handle.result()


def test_a_result_goes_on_where_a_cancelled_one_was() -> None:
    stand = Stand()
    stand.push(10)

    async def cancelled() -> None:
        waiting = asyncio.create_task(stand.handle.aresult())
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cancelled())
    assert stand.cancelled == [stand.handle]
    stand.push(TOKENS - 10, start=10)
    stand.finish()
    stand.check(stand.handle.result())


def test_too_much_unread_ends_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "REQUEST_BYTES", 1 << 20)
    monkeypatch.setattr(unread, "SHARE_BYTES", 1 << 16)
    backlogs = Backlogs()
    stand, other = Stand(backlogs=backlogs), Stand(backlogs=backlogs)
    other.push(100)
    stand.push(300, logprobs=True)
    assert not stand.cancelled
    assert 300_000 < backlogs.total() < 1 << 20
    stand.push(TOKENS, logprobs=True)
    assert stand.cancelled == [stand.handle]  # once
    assert backlogs.total() < 40_000  # nothing of it is kept
    stand.finish()
    for _ in range(2):
        with pytest.raises(UnreadAnswerError, match="was not read"):
            next(iter(stand.handle))
    other.finish()
    other.check(other.handle.result(), 100)


def test_who_reads_is_never_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "REQUEST_BYTES", 1 << 17)
    monkeypatch.setattr(unread, "SHARE_BYTES", 1 << 14)
    backlogs = Backlogs()
    stand = Stand(backlogs=backlogs)
    events = iter(stand.handle)
    for start in range(0, 3000, 20):
        stand.push(20, logprobs=True, start=start)
        assert [e.token_ids[0] for e in islice(events, 20)] == [*range(start, start + 20)]
    assert not stand.cancelled
    assert backlogs.total() == 0


def test_all_requests_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond which a request may keep a share unread, and no more."""
    monkeypatch.setattr(unread, "TOTAL_BYTES", 1 << 20)
    monkeypatch.setattr(unread, "SHARE_BYTES", 1 << 16)
    backlogs = Backlogs()
    large = Stand(backlogs=backlogs)
    large.push(330, logprobs=True)
    small = [Stand(backlogs=backlogs) for _ in range(10)]
    for stand in small:
        stand.push(15, logprobs=True)
    assert not any(stand.cancelled for stand in (large, *small))
    large.push(25, logprobs=True, start=330)
    assert large.cancelled
    assert not any(stand.cancelled for stand in small)
    del stand
    small.clear()
    gc.collect()
    assert backlogs.total() == 0  # what is dropped with its handle does not count


def test_the_engine_frees_what_an_unread_request_holds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "REQUEST_BYTES", 1 << 14)
    monkeypatch.setattr(unread, "SHARE_BYTES", 1 << 12)
    long = SamplingParams(max_new_tokens=400, ignore_eos=True)
    forgotten = engine.submit(Request(prompt="hi", adapter_id="a1", sampling=long))
    short = SamplingParams(max_new_tokens=40, ignore_eos=True)  # as much may wait for a slow reader
    read = engine.stream(Request(prompt="hi", adapter_id="a2", sampling=short))
    assert sum(len(event.token_ids) for event in read) == 40
    assert is_idle(wait_until_idle(engine))
    with pytest.raises(UnreadAnswerError):
        forgotten.result()


def test_a_late_result_is_whole(engine: Engine) -> None:
    """At ordinary sizes: all events of several choices, none of which was taken before."""
    sampling = SamplingParams(max_new_tokens=60, n=4, temperature=1.0, logprobs=20, ignore_eos=True)
    late = engine.submit(Request(prompt="hi", sampling=sampling))
    wait_until_idle(engine)
    assert [len(choice.token_ids) for choice in late.result().choices] == [60] * 4


@pytest.mark.parametrize("at_most", [1, 7, 256])
def test_events_that_wait_come_together(at_most: int) -> None:
    stand = Stand(choices=2)
    stand.push(TOKENS)
    stand.finish()

    async def read() -> list[list[TokenEvent]]:
        return [events async for events in stand.handle.batches(at_most)]

    batches = asyncio.run(read())
    assert {len(events) for events in batches[:-1]} == {at_most}
    assert sum(map(len, batches)) == 2 * (TOKENS + 1)
    with pytest.raises(RuntimeError, match="taken by iteration"):
        stand.handle.result()


def test_batches_end_with_the_error_behind_what_was_delivered() -> None:
    stand = Stand()
    stand.push(3)
    stand.handle.fail(UnreadAnswerError())
    taken: list[TokenEvent] = []

    async def read() -> None:
        async for events in stand.handle.batches(2):
            taken.extend(events)

    with pytest.raises(UnreadAnswerError):
        asyncio.run(read())
    assert len(taken) == 3
