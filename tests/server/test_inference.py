"""Generate and GenerateStream: every input, option and response field."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from loramux.v1 import adapters_pb2, inference_pb2

from lora_runtime import Generation
from server.services import inference

from ..support.engines import slow_down
from ..support.models import SCRIPTS, VOCAB
from ..support.servers import Harness, make_settings, refused, running

EIGHT = {"max_new_tokens": 8, "ignore_eos": True}


async def test_fields_of_a_response(served: Harness) -> None:
    done = await served.generate(adapter_id="a3", prompt="hello", request_id="r-1", **EIGHT)
    adapter = await served.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter_id="a3"))
    assert (done.request_id, done.adapter_id, done.adapter_version) == (
        "r-1",
        "a3",
        adapter.version,
    )
    assert len(adapter.version) == 64
    (choice,) = done.choices
    assert (choice.text, len(choice.token_ids)) == (done.text, 8)
    assert choice.finish_reason == inference_pb2.FINISH_REASON_LENGTH
    usage = choice.usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (5, 0, 8)
    assert choice.timings.prefill_s > 0
    assert choice.timings.decode_s > 0
    assert choice.timings.queue_s >= 0
    assert not choice.logprobs


async def test_base_and_adapters_differ(served: Harness) -> None:
    """All at once: one mixed batch."""
    names = ["", *(f"a{i}" for i in range(8))]
    results = await asyncio.gather(
        *(served.generate(adapter_id=n, prompt="hello", **EIGHT) for n in names)
    )
    assert len({tuple(r.choices[0].token_ids) for r in results}) == len(names)
    assert results[0].adapter_version == ""
    assert len({r.adapter_version for r in results}) == len(names)


async def test_the_three_inputs_agree(served: Harness) -> None:
    rendered = "<user>hi\n<bot>"
    by_messages = await served.generate(messages=[{"role": "user", "content": "hi"}], **EIGHT)
    by_prompt = await served.generate(prompt=rendered, **EIGHT)
    ids = served.app.engine.base.tokenizer(rendered)["input_ids"]
    by_ids = await served.generate(token_ids=ids, **EIGHT)
    assert (
        by_messages.choices[0].token_ids
        == by_prompt.choices[0].token_ids
        == by_ids.choices[0].token_ids
    )


@pytest.mark.parametrize("text", SCRIPTS)
@pytest.mark.parametrize("adapter", ["", "a5"])
async def test_stream_equals_unary(served: Harness, text: str, adapter: str) -> None:
    fields: dict[str, Any] = {
        "prompt": text,
        "adapter_id": adapter,
        "max_new_tokens": 40,
        "ignore_eos": True,
        "stop": ["~~"],
    }
    unary = await served.generate(**fields)
    events = [event async for event in served.stream(**fields)]
    assert "".join(e.text for e in events) == unary.text
    assert [t for e in events for t in e.token_ids] == list(unary.choices[0].token_ids)
    assert {e.adapter_version for e in events} == {unary.adapter_version}
    assert [bool(e.finish_reason) for e in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].usage.completion_tokens == unary.choices[0].usage.completion_tokens
    assert events[-1].HasField("timings")
    assert not events[0].HasField("usage")


async def test_finish_reasons(served: Harness) -> None:
    plain = await served.generate(prompt="hello", **EIGHT)
    tokens = list(plain.choices[0].token_ids)
    by_token = (await served.generate(prompt="hello", stop_token_ids=[tokens[2]], **EIGHT)).choices[
        0
    ]
    assert by_token.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert plain.choices[0].WhichOneof("stopped_by") is None
    assert by_token.WhichOneof("stopped_by") == "stop_token_id"
    assert by_token.stop_token_id == tokens[2]
    assert list(by_token.token_ids) == tokens[: tokens.index(tokens[2]) + 1]
    letter = next(c for c in plain.text if c != "\ufffd")
    by_string = (await served.generate(prompt="hello", stop=[letter], **EIGHT)).choices[0]
    assert by_string.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert by_string.stop_string == letter
    events = [e async for e in served.stream(prompt="hello", stop=[letter], **EIGHT)]
    assert [e.WhichOneof("stopped_by") for e in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].stop_string == letter
    assert by_string.text == plain.text[: plain.text.index(letter)]


async def test_biases_and_the_least_length(served: Harness) -> None:
    end = min(served.app.engine.base.eos_token_ids)
    fields: dict[str, Any] = {"prompt": "hello", "max_new_tokens": 8, "logit_bias": {end: 100}}
    ended = (await served.generate(**fields, logprobs=0)).choices[0]
    assert list(ended.token_ids) == [end]
    plain = (await served.generate(prompt="hello", logprobs=0, **EIGHT)).choices[0]
    assert ended.logprobs[0].logprob < plain.logprobs[0].logprob < 0  # the model's
    later = (await served.generate(**fields, min_tokens=4)).choices[0]
    assert [t == end for t in later.token_ids] == [False] * 4 + [True]
    for wrong, field in (
        ({"logit_bias": {VOCAB: 1}}, "logit_bias: token id"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias: each bias"),
        ({"min_tokens": 9}, "min_tokens: must"),
    ):
        error = await refused(
            served.generate(**{**fields, **wrong}), grpc.StatusCode.INVALID_ARGUMENT
        )
        assert field in error.details()


async def test_a_long_answer_is_converted_off_the_event_loop(
    served: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short one is not: it would take longer to find a thread."""
    threads: list[bool] = []

    def spying(convert: Any) -> Any:
        def spy(done: Generation) -> inference_pb2.GenerateResponse:
            threads.append(threading.current_thread() is threading.main_thread())
            return convert(done)

        return spy

    for name in ("to_response", "to_response_in_slices"):
        monkeypatch.setattr(inference, name, spying(getattr(inference, name)))
    for count in (8, 200):
        fields: dict[str, Any] = {"max_new_tokens": count, "ignore_eos": True, "logprobs": 20}
        done = await served.generate(prompt="hello", **fields)
        assert len(done.choices[0].logprobs) == count
    assert threads == [True, False]


async def test_logprobs(served: Harness) -> None:
    done = (await served.generate(prompt="hello", logprobs=3, **EIGHT)).choices[0]
    assert [p.token_id for p in done.logprobs] == list(done.token_ids)
    for p in done.logprobs:
        assert len(p.top) == 3
        assert (p.top[0].token_id, p.top[0].logprob) == (
            p.token_id,
            p.logprob,
        )  # greedy takes the likeliest
        assert p.logprob <= 0
        assert [t.logprob for t in p.top] == sorted((t.logprob for t in p.top), reverse=True)
    only_chosen = (await served.generate(prompt="hello", logprobs=0, **EIGHT)).choices[0]
    assert [len(p.top) for p in only_chosen.logprobs] == [0] * 8


async def test_choices_and_seed(served: Harness) -> None:
    fields: dict[str, Any] = {"prompt": "hello", "temperature": 1.0, "seed": 11, "n": 3, **EIGHT}
    first, again = await served.generate(**fields), await served.generate(**fields)
    assert [list(c.token_ids) for c in first.choices] == [list(c.token_ids) for c in again.choices]
    assert len({tuple(c.token_ids) for c in first.choices}) == 3
    streamed: dict[int, list[int]] = {}
    async for event in served.stream(**fields):
        streamed.setdefault(event.index, []).extend(event.token_ids)
    assert streamed == {c.index: list(c.token_ids) for c in first.choices}


async def test_sampling_options_reach_the_sampler(served: Harness) -> None:
    greedy = await served.generate(prompt="hello", max_new_tokens=30, ignore_eos=True)
    for option in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        same = await served.generate(
            prompt="hello", max_new_tokens=30, ignore_eos=True, temperature=1.0, **option
        )
        assert same.choices[0].token_ids == greedy.choices[0].token_ids, option
    for option in (
        {"repetition_penalty": 3.0},
        {"presence_penalty": 2.0, "frequency_penalty": 2.0},
    ):
        other = await served.generate(prompt="hello", max_new_tokens=30, ignore_eos=True, **option)
        assert other.choices[0].token_ids != greedy.choices[0].token_ids, option


async def test_prefix_cache_is_reported(served: Harness) -> None:
    prompt = "a prompt that is longer than one block of the KV cache"
    first = await served.generate(adapter_id="a1", prompt=prompt, **EIGHT)
    second = await served.generate(adapter_id="a1", prompt=prompt, **EIGHT)
    other = await served.generate(adapter_id="a2", prompt=prompt, **EIGHT)
    cached = [r.choices[0].usage.cached_tokens for r in (first, second, other)]
    assert cached == [0, 48, 0]
    assert first.text == second.text


async def test_composition(served: Harness) -> None:
    both = [{"adapter_id": "a0", "weight": 0.75}, {"adapter_id": "a1", "weight": -0.5}]
    fields: dict[str, Any] = {"prompt": "hello", "max_new_tokens": 12, "ignore_eos": True}
    done = await served.generate(adapters=both, **fields)
    versions = {a.adapter_id: a.version for a in served.app.engine.list_adapters()}
    uses = [("a0", versions["a0"], 0.75), ("a1", versions["a1"], -0.5)]
    assert [(u.adapter_id, u.version, u.weight) for u in done.adapters] == uses
    assert (done.adapter_id, done.adapter_version) == ("", "")
    events = [event async for event in served.stream(adapters=both, **fields)]
    assert [(u.adapter_id, u.version, u.weight) for u in events[0].adapters] == uses
    assert not any(event.adapters for event in events[1:])
    assert "".join(event.text for event in events) == done.text
    # An omitted weight is 1; a given 0 would be an answer of the base model.
    alone = await served.generate(adapter_id="a0", **fields)
    assert [(u.adapter_id, u.version, u.weight) for u in alone.adapters] == [
        ("a0", versions["a0"], 1)
    ]
    assert (await served.generate(adapters=[{"adapter_id": "a0"}], **fields)).text == alone.text
    base = await served.generate(**fields)
    assert not base.adapters
    nothing = served.generate(adapters=[{"adapter_id": "a0", "weight": 0}], **fields)
    error = await refused(nothing, grpc.StatusCode.INVALID_ARGUMENT)
    assert "not 0" in error.details()
    assert len({done.text, alone.text, base.text}) == 3


async def test_priority_goes_first(tiny_base: Path) -> None:
    async with running(make_settings(tiny_base, max_running=1)) as served:
        slow_down(served.app.engine)
        busy = served.stream(prompt="hi", max_new_tokens=40, ignore_eos=True)
        await busy.read()
        ended: list[int] = []

        async def wait(priority: int) -> None:
            await served.generate(prompt="hi", max_new_tokens=2, ignore_eos=True, priority=priority)
            ended.append(priority)

        calls = []
        for priority in (-5, 0, 5):
            calls.append(asyncio.ensure_future(wait(priority)))
            while served.app.engine.stats().waiting < len(calls):
                await asyncio.sleep(0.01)
        await asyncio.gather(*calls)
        assert ended == [5, 0, -5]
