"""Answers and their increments: what OpenAI's own types take, and the same text either way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lora_runtime import (
    AdapterUse,
    FinishReason,
    Generation,
    MessageDelta,
    RequestHandle,
    RequestLimits,
    Timings,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from lora_runtime.requests.answer import Answer
from server.http.openai.answers.chunks import Chunks, usage_chunk
from server.http.openai.answers.whole import Head, Running, Totals, echo, whole
from server.http.openai.requests.body import Call, read
from server.http.openai.requests.fields import CHAT, COMPLETION

BODIES: dict[str, dict[str, Any]] = {
    "completion": {"prompt": "hé"},
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
}
FORMS = {"completion": COMPLETION, "chat": CHAT}
TOKENS = {1: b"he", 2: b"llo", 3: b" \xf0\x9f", 4: b"\xa6\x99", 5: b"!", 6: b"</s>", 7: b"\xf0\x9f"}
TEXTS = {1: "he", 2: "llo", 3: " ", 4: "🦙", 5: "!\u2028", 6: ""}
USES = (AdapterUse("a", "v1"), AdapterUse("b", "v2", -0.5))
HEAD = Head("id-1", 5, "tiny")
TIMES = Timings(0.1, 0.2, 0.3)


def make(name: str, **fields: Any) -> tuple[Call, RequestHandle]:
    call = read(FORMS[name], {**BODIES[name], **fields}, RequestLimits(), 100)
    request = call.requests[0]
    handle = RequestHandle(
        request, "r", (1, 2, 3), USES, lambda handle: None, None, lambda token: TOKENS[token]
    )
    return call, handle


def events(
    handle: RequestHandle,
    reason: FinishReason = FinishReason.EOS,
    said: Sequence[MessageDelta] = (),
    by: str | int | None = None,
) -> list[TokenEvent]:
    """Six tokens of each choice in turn."""
    params = handle.request.sampling
    found = []
    for token, text in TEXTS.items():
        for index in range(params.n):
            logprobs: tuple[TokenLogprob, ...] = ()
            if params.logprobs is not None:
                top = ((3, -0.5), (7, float("-inf")), (4, -2.0))[: params.logprobs]
                logprobs = (TokenLogprob(token, -1.0, top),)
            message = said[(token - 1) % len(said)] if said else None
            event = TokenEvent(index, text, (token,), logprobs, message=message)
            if token == 6:
                event = replace(
                    event,
                    finish_reason=reason,
                    usage=Usage(3, 2 - index, 6),
                    timings=TIMES,
                    stopped_by=by,
                )
            found.append(event)
    return found


def running(call: Call, handle: RequestHandle) -> Running:
    return Running(handle, echo(handle) if call.options.echo else "")


def answer(call: Call, handle: RequestHandle, **options: Any) -> dict[str, Any]:
    taken = Answer(handle.request.sampling.n)
    taken.add(events(handle, **options))
    done = Generation("r", "", "", taken.choices(), USES)
    return json.loads("".join(whole(call, HEAD, [(running(call, handle), done)])))


def chunks(
    call: Call, handle: RequestHandle, size: int = 3, **options: Any
) -> list[dict[str, Any]]:
    found, totals = events(handle, **options), Totals()
    writer = Chunks(call, HEAD, running(call, handle), totals)
    parts = [writer.write(found[at : at + size]) for at in range(0, len(found), size)]
    return read_events(b"".join(parts) + usage_chunk(call, HEAD, totals))


def read_events(data: bytes) -> list[dict[str, Any]]:
    lines = data.decode("ascii").split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: {") and "\n" not in line for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def joined(found: Sequence[dict[str, Any]], index: int = 0) -> str:
    choices = [c for one in found for c in one["choices"] if c["index"] == index]
    return "".join(c["text"] if "text" in c else c["delta"]["content"] for c in choices)


def test_a_completion() -> None:
    call, handle = make("completion", n=2)
    found = answer(call, handle)
    Completion.model_validate(found, strict=True)
    assert (found["id"], found["object"], found["created"], found["model"]) == (
        "id-1", "text_completion", 5, "tiny"
    )  # fmt: skip
    assert [c["index"] for c in found["choices"]] == [0, 1]
    assert found["choices"][0] == {
        "index": 0,
        "text": "hello 🦙!\u2028",
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
        "timings": {"queue_s": 0.1, "prefill_s": 0.2, "decode_s": 0.3},
    }
    assert found["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 12,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert found["adapters"] == [
        {"adapter_id": "a", "version": "v1", "weight": 1.0},
        {"adapter_id": "b", "version": "v2", "weight": -0.5},
    ]


def test_a_chat() -> None:
    found = answer(*make("chat"))
    ChatCompletion.model_validate(found, strict=True)
    assert found["object"] == "chat.completion"
    assert found["choices"][0]["message"] == {
        "role": "assistant", "content": "hello 🦙!\u2028", "refusal": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "told"),
    [(FinishReason.EOS, "stop"), (FinishReason.STOP, "stop"), (FinishReason.LENGTH, "length")],
)
def test_reasons(reason: FinishReason, told: str) -> None:
    assert answer(*make("chat"), reason=reason)["choices"][0]["finish_reason"] == told


@pytest.mark.parametrize("by", ["!", 5])
@pytest.mark.parametrize("name", FORMS)
def test_what_stopped_it_is_told(name: str, by: str | int) -> None:
    ended: dict[str, Any] = {"reason": FinishReason.STOP, "by": by}
    assert answer(*make(name), **ended)["choices"][0]["stop_reason"] == by
    *increments, last, _ = chunks(*make(name, stream=True), size=1, **ended)
    assert last["choices"][0]["stop_reason"] == by
    assert not any("stop_reason" in c for one in increments for c in one["choices"])


def test_logprobs_of_a_completion() -> None:
    call, handle = make("completion", logprobs=2)
    found = answer(call, handle)
    Completion.model_validate(found, strict=True)
    logprobs = found["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [
        "he", "llo", "bytes:\\x20\\xf0\\x9f", "bytes:\\xa6\\x99", "!", "</s>"
    ]  # fmt: skip
    assert logprobs["token_logprobs"] == [-1.0] * 6
    assert logprobs["text_offset"] == [0, 2, 5, 6, 7, 8]
    # Two parts of characters stay two, and there is no infinity in JSON.
    assert logprobs["top_logprobs"][0] == {
        "bytes:\\x20\\xf0\\x9f": -0.5, "bytes:\\xf0\\x9f": -9999.0, "he": -1.0
    }  # fmt: skip
    ids = answer(*make("completion", logprobs=0, return_tokens_as_token_ids=True))
    assert ids["choices"][0]["logprobs"]["tokens"][0] == "token_id:1"
    assert ids["choices"][0]["logprobs"]["top_logprobs"][0] == {"token_id:1": -1.0}


def test_logprobs_of_a_chat() -> None:
    found = answer(*make("chat", logprobs=True, top_logprobs=3))
    ChatCompletion.model_validate(found, strict=True)
    content = found["choices"][0]["logprobs"]["content"]
    assert bytes(b for one in content for b in one["bytes"]).decode() == "hello 🦙!</s>"
    assert content[2] == {
        "token": " \ufffd",
        "logprob": -1.0,
        "bytes": [32, 0xF0, 0x9F],
        "top_logprobs": [
            {"token": " \ufffd", "logprob": -0.5, "bytes": [32, 0xF0, 0x9F]},
            {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xF0, 0x9F]},
            {"token": "\ufffd\ufffd", "logprob": -2.0, "bytes": [0xA6, 0x99]},
        ],
    }
    assert answer(*make("chat", logprobs=True))["choices"][0]["logprobs"]["content"][0] == {
        "token": "he", "logprob": -1.0, "bytes": [104, 101], "top_logprobs": []
    }  # fmt: skip


@pytest.mark.parametrize("size", [1, 5, 99])
@pytest.mark.parametrize("name", FORMS)
def test_increments_are_the_whole_answer(name: str, size: int) -> None:
    logprobs = {"logprobs": True, "top_logprobs": 1} if name == "chat" else {"logprobs": 1}
    fields = {
        "n": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        **logprobs,
    }
    expected = answer(*make(name, **fields))
    found = chunks(*make(name, **fields), size=size)
    kind = ChatCompletionChunk if name == "chat" else Completion
    for one in found:
        # A completion's own type knows of no stream, in which OpenAI has null, too.
        ended = [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in one["choices"]]
        kind.model_validate({**one, "choices": ended}, strict=True)
        assert (one["id"], one["created"], one["model"]) == ("id-1", 5, "tiny")
    *increments, last = found
    assert (last["choices"], last["usage"]) == ([], expected["usage"])
    assert {one["usage"] for one in increments} == {None}
    for choice in expected["choices"]:
        own = [c for one in increments for c in one["choices"] if c["index"] == choice["index"]]
        text = choice["text"] if name == "completion" else choice["message"]["content"]
        assert joined(increments, choice["index"]) == text
        assert [c["finish_reason"] for c in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        assert own[-1]["timings"] == choice["timings"]
        assert [t for c in own for t in c.get("token_ids", [])] == choice["token_ids"]
        for key, values in choice["logprobs"].items():
            assert [v for c in own if c["logprobs"] for v in c["logprobs"][key]] == values
    assert increments[0]["adapters"] == expected["adapters"]
    if name == "chat":
        assert increments[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert increments[0]["prompt_token_ids"] == expected["prompt_token_ids"] == [1, 2, 3]
    else:
        assert increments[0]["choices"][0]["prompt_token_ids"] == [1, 2, 3]
        assert expected["choices"][0]["prompt_token_ids"] == [1, 2, 3]


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}])
@pytest.mark.parametrize("name", FORMS)
def test_usage_is_told_to_who_asks(name: str, options: dict[str, Any]) -> None:
    *increments, _ = chunks(*make(name, stream=True, **options))
    assert not any("usage" in one for one in increments)


@pytest.mark.parametrize("name", FORMS)
def test_usage_in_every_chunk(name: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    found = chunks(*make(name, stream=True, stream_options=options))
    tokens = [one["usage"]["completion_tokens"] for one in found]
    assert tokens == [*([0] if name == "chat" else []), 1, 2, 3, 4, 5, 6, 6]
    assert {one["usage"]["prompt_tokens"] for one in found} == {3}


def test_an_echo_comes_first() -> None:
    call, handle = make("completion", echo=True)
    assert answer(call, handle)["choices"][0]["text"] == "héhello 🦙!\u2028"
    assert joined(chunks(*make("completion", echo=True, stream=True))) == "héhello 🦙!\u2028"
    call, handle = make("completion", prompt=[1, 2, 3, 4], echo=True)
    handle.prompt_token_ids = (1, 2, 3, 4)
    assert answer(call, handle)["choices"][0]["text"].startswith("hello 🦙hello")
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so: "}]
    fields = {"messages": begun, "continue_final_message": True, "echo": True}
    assert answer(*make("chat", **fields))["choices"][0]["message"]["content"].startswith("so: he")
    assert joined(chunks(*make("chat", **fields, stream=True))).startswith("so: he")
