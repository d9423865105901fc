"""LiteLLM: its three ways to an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm

from .harness import ADAPTERS, ANSWER_SCHEMA, CAPITAL, CITY_TOOL, check, main

HELLO = [{"role": "user", "content": CAPITAL}]
ANSWER_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": ANSWER_SCHEMA, "strict": True},
}


def options(url: str, model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "api_base": f"{url}/v1", "api_key": "none", "max_tokens": 8} | more


@check
def chats_by_both_names_of_the_provider(url: str) -> None:
    for provider in ("openai", "hosted_vllm"):
        for adapter in ADAPTERS:
            answer = litellm.completion(
                **options(url, f"{provider}/{adapter}", messages=HELLO, temperature=0)
            )
            assert answer.choices[0].message.content, answer
            assert 0 < answer.usage.completion_tokens <= 8, answer.usage


@check
def a_stream_is_the_whole_answer(url: str) -> None:
    asked = options(url, "openai/pirate", messages=HELLO, seed=3)
    whole = litellm.completion(**asked)
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@check
def completions(url: str) -> None:
    answer = litellm.text_completion(
        **options(url, "text-completion-openai/json", prompt="Hello", max_tokens=5, temperature=0)
    )
    assert answer.choices[0].text


@check
def calls_at_once(url: str) -> None:
    async def talk() -> list[Any]:
        calls = (
            litellm.acompletion(**options(url, f"openai/{name}", messages=HELLO, seed=1))
            for name in ADAPTERS
        )
        return await asyncio.gather(*calls)

    assert all(answer.choices[0].message.content for answer in asyncio.run(talk()))


@check
def an_unknown_model_is_its_not_found_error(url: str) -> None:
    try:
        litellm.completion(**options(url, "openai/nobody", messages=HELLO))
    except litellm.NotFoundError:
        return
    raise AssertionError("the call was taken")


@check
def an_answer_of_a_schema(url: str) -> None:
    answer = litellm.completion(
        **options(url, "openai/json", messages=HELLO, max_tokens=40, response_format=ANSWER_FORMAT)
    )
    assert json.loads(answer.choices[0].message.content)["city"] in ("Paris", "Rome")


@check
def a_tool_that_must_be_called(url: str) -> None:
    answer = litellm.completion(
        **options(
            url,
            "openai/pirate",
            messages=HELLO,
            max_tokens=60,
            tools=[CITY_TOOL],
            tool_choice="required",
            parallel_tool_calls=False,
        )
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


if __name__ == "__main__":
    main()
