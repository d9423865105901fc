"""OpenAI's own client, as it is: whole and streamed, sync and async, errors and retries."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from ....support.http_front import HttpHarness

pytestmark = pytest.mark.asyncio(loop_scope="package")
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


async def grpc_text(front: HttpHarness, **fields: Any) -> tuple[str, list[int]]:
    """Text and tokens that gRPC gives."""
    choice = (await front.server.generate(**fields)).choices[0]
    return choice.text, list(choice.token_ids)


@pytest.mark.parametrize("model", ["tiny", "a0", "a7"])
async def test_the_same_seed_gives_the_same_tokens_as_grpc(
    front: HttpHarness, client: AsyncOpenAI, model: str
) -> None:
    sampling: dict[str, Any] = {
        "temperature": 0.75, "top_p": 0.5, "seed": 11, "presence_penalty": 0.5
    }  # fmt: skip
    more: dict[str, Any] = {"top_k": 20, "min_tokens": 12}
    bias = {40: 4.5, 41: -3.0}
    common = {
        "adapter_id": "" if model == "tiny" else model,
        "max_new_tokens": 12,
        **sampling,
        **more,
        "logit_bias": bias,
    }
    sampling["logit_bias"] = {str(token): value for token, value in bias.items()}
    ids = {"return_token_ids": True}
    told = await client.completions.create(
        model=model, prompt="hello", max_tokens=12, extra_body=more | ids, **sampling
    )
    chosen: Any = told.choices[0]
    assert (chosen.text, chosen.token_ids) == await grpc_text(front, prompt="hello", **common)

    chat = await client.chat.completions.create(
        model=model, messages=HELLO, max_completion_tokens=12, extra_body=more | ids, **sampling
    )
    said: Any = chat.choices[0]
    assert (said.message.content, said.token_ids) == await grpc_text(
        front, messages=[{"role": "user", "content": "hello"}], **common
    )
    streamed = await client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=12, extra_body=more, stream=True, **sampling
    )
    pieces = [chunk.choices[0].delta.content or "" async for chunk in streamed]
    assert "".join(pieces) == said.message.content


async def test_a_sync_client(front: HttpHarness) -> None:
    def talk() -> None:
        with OpenAI(base_url=f"{front.url}/v1", api_key="none") as client:
            assert {m.id for m in client.models.list()} == {"tiny", "a0", "a7"}
            options: Any = {"model": "a0", "prompt": "so", "temperature": 0, "max_tokens": 6}
            whole = client.completions.create(**options)
            assert whole.usage is not None
            assert whole.usage.completion_tokens <= 6
            chunks = list(
                client.completions.create(
                    **options, stream=True, stream_options={"include_usage": True}
                )
            )
            assert "".join(c.choices[0].text for c in chunks[:-1]) == whole.choices[0].text
            assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
            assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)

    await asyncio.to_thread(talk)


async def test_the_helper_for_streams(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model="a0",
        messages=HELLO,
        seed=3,
        max_tokens=8,
        n=2,
        logprobs=True,
        stream_options={"include_usage": True},
    ) as stream:
        seen = [event.type async for event in stream]
        with pytest.raises(openai.LengthFinishReasonError) as ended:
            await stream.get_final_completion()
    final = ended.value.completion
    assert {"content.delta", "content.done", "logprobs.content.delta"} <= set(seen)
    whole = await client.chat.completions.create(
        model="a0", messages=HELLO, seed=3, max_tokens=8, n=2, logprobs=True
    )
    assert [c.message.content for c in final.choices] == [c.message.content for c in whole.choices]
    for ours, theirs in zip(final.choices, whole.choices, strict=True):
        assert ours.logprobs
        assert theirs.logprobs
        assert theirs.logprobs.content
        assert ours.logprobs.content == theirs.logprobs.content
        assert (
            bytes(b for one in theirs.logprobs.content for b in one.bytes or [])
            .decode(errors="replace")
            .startswith((theirs.message.content or "").rstrip("\ufffd"))
        )
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.completion_tokens == whole.usage.completion_tokens
    assert final.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_several_prompts(front: HttpHarness, client: AsyncOpenAI) -> None:
    prompts = ["hello", "so", "and then"]
    options: Any = {"model": "a7", "max_tokens": 5, "seed": 1, "n": 2}
    one_by_one = [await client.completions.create(prompt=one, **options) for one in prompts]
    together = await client.completions.create(prompt=prompts, **options)
    assert [c.text for c in together.choices] == [c.text for o in one_by_one for c in o.choices]
    assert [c.index for c in together.choices] == list(range(6))
    usages = [one.usage for one in one_by_one if one.usage]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(u.prompt_tokens for u in usages)
    assert together.usage.completion_tokens == sum(u.completion_tokens for u in usages)

    texts = [""] * 6
    stream = await client.completions.create(prompt=prompts, stream=True, **options)
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [c.text for c in together.choices]


async def test_compositions_versions_and_timings(front: HttpHarness, client: AsyncOpenAI) -> None:
    given = [{"adapter_id": "a0"}, {"adapter_id": "a7", "weight": 0.5}]
    answer: Any = await client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=6, extra_body={"adapters": given}
    )
    engine = front.server.app.engine
    assert answer.adapters == [
        {"adapter_id": "a0", "version": engine.get_adapter("a0").version, "weight": 1.0},
        {"adapter_id": "a7", "version": engine.get_adapter("a7").version, "weight": 0.5},
    ]
    expected, _ = await grpc_text(
        front,
        messages=[{"role": "user", "content": "hello"}],
        adapters=[{"adapter_id": "a0"}, {"adapter_id": "a7", "weight": 0.5}],
        max_new_tokens=6,
    )
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].timings.keys() == {"queue_s", "prefill_s", "decode_s"}
    assert answer.model == "tiny"


async def test_tokens_of_the_cache_are_counted(client: AsyncOpenAI) -> None:
    options: Any = {"model": "a0", "prompt": list(range(40, 90)), "max_tokens": 1}
    cached = []
    for _ in range(2):
        usage = (await client.completions.create(**options)).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == 0 < (cached[1] or 0)


async def test_ids_are_the_callers(client: AsyncOpenAI) -> None:
    options: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 1}
    by_header = await client.chat.completions.create(
        **options, extra_headers={"x-request-id": "mine"}
    )
    by_field = await client.chat.completions.create(**options, extra_body={"request_id": "yours"})
    assert (by_header.id, by_header._request_id) == ("chatcmpl-mine", "mine")
    assert (by_field.id, by_field._request_id) == ("chatcmpl-yours", "yours")
    with pytest.raises(openai.BadRequestError, match="128 visible") as caught:
        await client.chat.completions.create(**options, extra_body={"request_id": "no no"})
    assert caught.value.param == "request_id"


async def test_a_chat_goes_on_to_the_end_of_the_context(
    front: HttpHarness, client: AsyncOpenAI
) -> None:
    answer = await client.chat.completions.create(
        model="tiny", messages=HELLO, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens == front.server.app.engine.max_context
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "none such"}, openai.NotFoundError, "model"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"max_completion_tokens": 0}, openai.BadRequestError, "max_completion_tokens"),
        ({"logprobs": True, "top_logprobs": 21}, openai.BadRequestError, "top_logprobs"),
        ({"extra_body": {"priority": 99}}, openai.BadRequestError, "priority"),
        ({"extra_body": {"bad_words": ["x"]}}, openai.BadRequestError, "bad_words"),
        ({"extra_body": {"adapter_id": "a0"}}, openai.BadRequestError, "adapter_id"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        (
            {"messages": [{"role": "user", "content": "long " * 600}]},
            openai.BadRequestError,
            "messages",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_name_the_field(
    client: AsyncOpenAI,
    fields: dict[str, Any],
    error: type[openai.APIStatusError],
    param: str,
    stream: bool,
) -> None:
    options = {"model": "tiny", "messages": HELLO, "stream": stream, **fields}
    with pytest.raises(error) as caught:
        await client.chat.completions.create(**options)
    assert caught.value.param == param
    assert param in caught.value.message or param == "model"


async def test_parts_of_text_are_the_text(client: AsyncOpenAI) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    options: Any = {"model": "tiny", "max_tokens": 4, "seed": 5}
    by_parts, by_text = [
        await client.chat.completions.create(messages=messages, **options)
        for messages in (parts, HELLO)
    ]
    assert by_parts.choices[0].message == by_text.choices[0].message
    assert by_parts.usage is not None
    assert by_text.usage is not None
    assert by_parts.usage.prompt_tokens == by_text.usage.prompt_tokens


async def test_unknown_fields_are_ignored(client: AsyncOpenAI) -> None:
    options: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 3, "seed": 5}
    plain = await client.chat.completions.create(**options)
    other = await client.chat.completions.create(
        **options, user="me", store=True, metadata={"a": "b"}, extra_body={"nonsense": {"x": 1}}
    )
    assert other.choices[0].message == plain.choices[0].message


class Pet(BaseModel):
    name: Literal["rex", "tom"]
    age: int


async def test_an_answer_in_the_form_of_a_model(client: AsyncOpenAI) -> None:
    parsed = await client.chat.completions.parse(
        model="a0", messages=HELLO, seed=2, response_format=Pet, logit_bias={"52": -100}
    )
    pet = parsed.choices[0].message.parsed
    assert isinstance(pet, Pet)
    async with client.chat.completions.stream(
        model="a0", messages=HELLO, seed=2, response_format=Pet, logit_bias={"52": -100}
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == pet
    chosen = await client.completions.create(
        model="a0", prompt="hello", extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert chosen.choices[0].text in ("yes", "no")
    assert chosen.choices[0].finish_reason == "stop"
