"""Tools, with OpenAI's own client: calls that a choice asks for, and turns that answer them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI, pydantic_function_tool

from .test_client import HELLO, Pet

pytestmark = pytest.mark.asyncio(loop_scope="package")
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "feed",
            "parameters": {
                "type": "object",
                "properties": {"who": {"enum": ["rex", "tom"]}},
                "required": ["who"],
                "additionalProperties": False,
            },
        },
    }
]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "feed"}}])
async def test_a_tool_is_called(client: AsyncOpenAI, choice: Any) -> None:
    options: Any = {
        "model": "a7", "messages": HELLO, "tools": TOOLS, "tool_choice": choice, "seed": 4,
        "parallel_tool_calls": False,
    }  # fmt: skip
    whole = (await client.chat.completions.create(**options)).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.tool_calls
    (call,) = whole.message.tool_calls
    assert call.type == "function"
    assert call.id
    assert json.loads(call.function.arguments)["who"] in ("rex", "tom")

    async with client.chat.completions.stream(**options) as stream:
        final = await stream.get_final_completion()
    (streamed,) = final.choices[0].message.tool_calls or []
    assert streamed.function.name == "feed"
    assert streamed.function.arguments == call.function.arguments

    turns: Any = [
        *HELLO,
        whole.message.model_dump(exclude_unset=True),
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    more = await client.chat.completions.create(
        model="a7", messages=turns, tools=TOOLS, max_tokens=3
    )
    assert more.choices[0].message.content is not None


async def test_a_tool_that_is_a_model(client: AsyncOpenAI) -> None:
    options: Any = {
        "model": "a7",
        "messages": HELLO,
        "tools": [pydantic_function_tool(Pet)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "seed": 4,
        "logit_bias": {"52": -100},
    }
    whole = await client.chat.completions.parse(**options)
    async with client.chat.completions.stream(**options) as stream:
        streamed = await stream.get_final_completion()
    (called,) = whole.choices[0].message.tool_calls or []
    assert isinstance(called.function.parsed_arguments, Pet)
    (again,) = streamed.choices[0].message.tool_calls or []
    assert again.function.parsed_arguments == called.function.parsed_arguments
