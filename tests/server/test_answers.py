"""Sizes of whole answers: estimated before they are computed, made beside the event loop."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from lora_runtime import (
    Choice,
    FinishReason,
    Generation,
    InvalidRequestError,
    MessageDelta,
    SamplingParams,
    Timings,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from server.operations.answer_size import answer_bytes, check_size
from server.services import answers
from server.services.answers import to_response, to_response_in_slices

from ..support.engines import wait_until_idle
from ..support.servers import Harness, detail, refused

_DEFAULT_BYTES = 4 << 20
_VOCABULARY = 49152


def generation(n: int, tokens: int, logprobs: int | None, text: str = "word ") -> Generation:
    top = tuple((49000 + i, -1.5 - i) for i in range(logprobs or 0))
    one = TokenLogprob(49000, -0.5, top)
    choices = tuple(
        Choice(
            i,
            text * tokens,
            (49000,) * tokens,
            () if logprobs is None else (one,) * tokens,
            FinishReason.LENGTH,
            Usage(5, 0, tokens),
            Timings(0.1, 0.1, 0.1),
        )
        for i in range(n)
    )
    return Generation("r", "", "", choices)


@pytest.mark.parametrize("logprobs", [None, 0, 1, 20])
@pytest.mark.parametrize("n", [1, 3])
def test_an_estimate_is_no_less_and_not_much_more(n: int, logprobs: int | None) -> None:
    params = SamplingParams(max_new_tokens=500, n=n, logprobs=logprobs)
    size = to_response(generation(n, 500, logprobs)).ByteSize()
    estimate = answer_bytes(params, 500, _VOCABULARY)
    assert size <= estimate + 100 * n  # what comes once for a choice
    assert estimate <= size * 1.3


@pytest.mark.parametrize(
    ("params", "context"),
    [
        (SamplingParams(n=16, logprobs=20), 8192),
        (SamplingParams(max_new_tokens=8192, logprobs=20), 8192),
        (SamplingParams(max_new_tokens=8192, n=16), 8192),
        (SamplingParams(max_new_tokens=2**31), 262144),
    ],
)
def test_what_is_usual_passes(params: SamplingParams, context: int) -> None:
    check_size(params, 5, context, _VOCABULARY, _DEFAULT_BYTES)


def test_what_may_be_too_large_is_refused_with_the_fields() -> None:
    params = SamplingParams(max_new_tokens=1500, n=16, logprobs=20)
    with pytest.raises(InvalidRequestError, match="or a stream") as caught:
        check_size(params, 5, 8192, _VOCABULARY, _DEFAULT_BYTES)
    assert [v.field for v in caught.value.violations] == ["max_new_tokens", "n", "logprobs"]
    texts = SamplingParams(max_new_tokens=20_000, n=16)  # twice, as a text and as a message
    check_size(texts, 5, 32768, _VOCABULARY, _DEFAULT_BYTES)
    with pytest.raises(InvalidRequestError):
        check_size(texts, 5, 32768, _VOCABULARY, _DEFAULT_BYTES, parsed=True)
    # The context, or what the prompt leaves of it, is less than what was asked for.
    check_size(params, 5, 512, _VOCABULARY, _DEFAULT_BYTES)
    check_size(params, 8000, 8192, _VOCABULARY, _DEFAULT_BYTES)


async def test_a_call_with_too_large_an_answer_computes_nothing(served: Harness) -> None:
    service: Any = served.app._inference
    service._max_message_bytes = 20_000
    fields: dict[str, Any] = {"prompt": "x", "max_new_tokens": 200, "ignore_eos": True}
    steps = served.app.engine.stats().steps
    error = await refused(served.generate(**fields, logprobs=20), grpc.StatusCode.INVALID_ARGUMENT)
    found = {v.field for v in detail(error, error_details_pb2.BadRequest).field_violations}
    assert found == {"max_new_tokens", "logprobs"}
    wait_until_idle(served.app.engine)
    assert served.app.engine.stats().steps <= steps + 1
    assert (await served.generate(**fields)).choices[0].usage.completion_tokens == 200
    events = [e async for e in served.stream(**fields, logprobs=20)]
    assert sum(len(e.logprobs) for e in events) == 200


async def test_a_large_answer_is_made_on_a_thread(
    served: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {
        "prompt": "x", "max_new_tokens": 150, "ignore_eos": True, "logprobs": 20
    }  # fmt: skip
    monkeypatch.setattr(answers, "_PAUSE_S", 0)
    plain = to_response(generation(2, 150, 20))
    assert to_response_in_slices(generation(2, 150, 20)) == plain
    before = await served.generate(**fields)
    used: list[bool] = []
    run = served.app._threads.answering.run

    async def watched(work: Any) -> Any:
        used.append(True)
        return await run(work)

    monkeypatch.setattr(served.app._threads.answering, "run", watched)
    again = await served.generate(**fields)
    assert used
    assert [p.top for p in again.choices[0].logprobs] == [p.top for p in before.choices[0].logprobs]
    await served.generate(prompt="x", max_new_tokens=8)
    assert len(used) == 1


def increment(text: str, token: int, index: int = 0, **ends: Any) -> TokenEvent:
    return TokenEvent(index, text, (token,), (TokenLogprob(token, -1.0),), **ends)


def test_what_waits_of_a_stream_is_joined_by_choice() -> None:
    end: dict[str, Any] = {"finish_reason": FinishReason.LENGTH, "usage": Usage(1, 0, 3)}
    first = [increment("a", 1), increment("b", 2), increment("c", 3, **end)]
    other = [increment("x", 7, 1), increment("y", 8, 1)]
    events = [first[0], other[0], first[1], other[1], first[2]]
    one, two = answers.joined(events)
    assert (one.index, one.text, one.token_ids) == (0, "abc", (1, 2, 3))
    assert [p.token_id for p in one.logprobs] == [1, 2, 3]
    assert (one.finish_reason, one.usage) == tuple(end.values())
    assert (two.index, two.text, two.token_ids, two.finish_reason) == (1, "xy", (7, 8), None)


def test_parts_of_a_parsed_message_are_not_joined() -> None:
    events = [increment(t, i, message=MessageDelta(t)) for i, t in enumerate("ab")]
    assert answers.joined(events) == events


def test_an_increment_that_waits_alone_is_sent_as_it_is() -> None:
    events = [increment("a", 1)]
    assert answers.joined(events) == events
