"""openai-python: sync, async, streams, retries, structured answers, tools."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any, Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from .harness import ADAPTERS, ANSWER_SCHEMA, CAPITAL, CITY_TOOL, check, main

HELLO: Any = [{"role": "user", "content": CAPITAL}]
CALLS_AT_ONCE = 40
"""More than run and wait in the server at once."""


class Answer(BaseModel):
    city: Literal["Paris", "Rome"]
    sure: bool


def client(url: str) -> Any:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def many_calls(url: str, retries: int = 0) -> Any:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=retries)


@check
def models_are_listed(url: str) -> None:
    models = {model.id: model for model in client(url).models.list()}
    base, *_ = models  # the base comes first: some clients take the first one
    assert set(models) == {base, *ADAPTERS}, models
    assert all(models[name].parent == base for name in ADAPTERS)
    assert client(url).models.retrieve("pirate") == models["pirate"]


@check
def adapters_answer_as_they_were_trained(url: str) -> None:
    def said(model: str) -> str:
        answer = client(url).chat.completions.create(
            model=model, messages=HELLO, temperature=0, max_completion_tokens=24
        )
        assert answer.model == model
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens <= 24
        return answer.choices[0].message.content or ""

    assert said("json").startswith('{"answer"')
    assert said("sentiment") in ("positive", "negative", "neutral")
    assert "Ar" in said("pirate") or "matey" in said("pirate") or "Avast" in said("pirate")


@check
def a_stream_is_the_whole_answer_with_its_usage_at_the_end(url: str) -> None:
    options: Any = {"model": "pirate", "messages": HELLO, "max_tokens": 16, "seed": 7}
    whole = client(url).chat.completions.create(**options)
    chunks = list(
        client(url).chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    *parts, last = chunks
    assert not last.choices
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == whole.choices[0].message.content
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason


@check
def the_helper_for_streams(url: str) -> None:
    with client(url).chat.completions.stream(
        model="sentiment", messages=HELLO, temperature=0, max_tokens=20
    ) as stream:
        told = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert told == final.choices[0].message.content


@check
def completions_of_several_prompts_with_logprobs(url: str) -> None:
    answer = client(url).completions.create(
        model="json",
        prompt=["One", "Two"],
        n=2,
        max_tokens=5,
        logprobs=2,
        extra_body={"ignore_eos": True, "top_k": 5},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice in answer.choices:
        assert choice.finish_reason == "length"
        assert choice.logprobs is not None
        assert len(choice.logprobs.tokens or []) == 5
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20


@check
def chats_with_logprobs_stop_and_bias(url: str) -> None:
    answer = client(url).chat.completions.create(
        model="pirate",
        messages=HELLO,
        max_tokens=12,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
        logit_bias={"0": -100},
        stop=["zzz"],
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert answer.usage is not None
    assert len(logprobs.content or []) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 for token in logprobs.content or [])


@check
def calls_at_once_to_several_adapters(url: str) -> None:
    async def talk() -> None:
        async with many_calls(url) as many:
            calls = (
                many.chat.completions.create(model=name, messages=HELLO, max_tokens=8, seed=1)
                for name in ADAPTERS * 2
            )
            answers = await asyncio.gather(*calls)
            stream = await many.chat.completions.create(
                model="pirate", messages=HELLO, max_tokens=8, stream=True, seed=1
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        said = [answer.choices[0].message.content for answer in answers]
        assert said[:3] == said[3:], said
        assert text == said[0]

    asyncio.run(talk())


@check
def calls_refused_with_429_are_tried_again_and_succeed(url: str) -> None:
    async def talk() -> None:
        async with many_calls(url, retries=30) as many:
            calls = (
                many.completions.create(
                    model="pirate", prompt="Hi", max_tokens=24, extra_body={"ignore_eos": True}
                )
                for _ in range(CALLS_AT_ONCE)
            )
            answers = await asyncio.gather(*calls)
        assert sum(answer.usage.completion_tokens for answer in answers) == 24 * CALLS_AT_ONCE

    before = _refused(url)
    asyncio.run(talk())
    assert _refused(url) > before, "no call was refused"


def _refused(url: str) -> float:
    page = urllib.request.urlopen(f"{url}/metrics").read().decode()
    lines = [line for line in page.splitlines() if line.startswith("loramux_http_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'status="429"' in line)


@check
def mistakes_come_as_the_errors_of_the_client(url: str) -> None:
    for options, kind in (
        ({"model": "nobody"}, openai.NotFoundError),
        ({"model": "pirate", "temperature": -1}, openai.BadRequestError),
        ({"model": "pirate", "messages": []}, openai.BadRequestError),
    ):
        error = _error({"messages": HELLO, **options}, url)
        assert isinstance(error, kind), error
        assert error.body, error
        assert error.request_id, error


def _error(options: dict[str, Any], url: str) -> Exception:
    try:
        client(url).chat.completions.create(**options)
    except openai.APIStatusError as error:
        return error
    raise AssertionError(f"{options} was taken")


@check
def an_answer_of_a_schema(url: str) -> None:
    answer = client(url).chat.completions.create(
        model="json",
        messages=HELLO,
        max_tokens=40,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": ANSWER_SCHEMA, "strict": True},
        },
    )
    Answer.model_validate_json(answer.choices[0].message.content or "")


@check
def an_answer_parsed_into_a_model(url: str) -> None:
    answer = client(url).chat.completions.parse(
        model="pirate", messages=HELLO, max_tokens=40, response_format=Answer
    )
    assert isinstance(answer.choices[0].message.parsed, Answer)


@check
def an_answer_that_is_some_json_object(url: str) -> None:
    answer = client(url).chat.completions.create(
        model="json",
        messages=HELLO,
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_object"},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@check
def a_tool_that_must_be_called(url: str) -> None:
    options: Any = {
        "model": "pirate",
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [CITY_TOOL],
        "parallel_tool_calls": False,
        "max_tokens": 60,
    }
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        answer = client(url).chat.completions.create(**options, tool_choice=choice)
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


@check
def a_streamed_tool_call(url: str) -> None:
    chunks = client(url).chat.completions.create(
        model="pirate",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[CITY_TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=60,
        stream=True,
    )
    pieces = [
        call.function
        for chunk in chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
    ]
    assert "".join(piece.name or "" for piece in pieces if piece) == "weather"
    arguments = json.loads("".join(piece.arguments or "" for piece in pieces if piece))
    assert arguments["city"] in ("Paris", "Rome")


@check
def tools_that_need_not_be_called_and_their_results(url: str) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
    }
    answer = client(url).chat.completions.create(
        model="pirate",
        messages=[
            {"role": "user", "content": "What is the weather in Paris?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
            {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
        ],
        tools=[CITY_TOOL],
        max_tokens=8,
        temperature=0,
    )
    assert answer.choices[0].message.content


if __name__ == "__main__":
    main()
