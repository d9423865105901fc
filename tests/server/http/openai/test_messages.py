"""Conversations as OpenAI's clients send them, and what answers say: calls, reasoning, content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lora_runtime import (
    MAX_PARTS,
    ChatMessage,
    ContentPart,
    FinishReason,
    MessageDelta,
    NamedTool,
    ToolCall,
    ToolCallDelta,
)

from .test_answers import answer, chunks, make
from .test_fields import call, wrong

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"b": 1.0, "a": 10}}}


def test_a_conversation_as_it_is_read() -> None:
    (request,) = call(
        "chat",
        messages=[
            {"role": "system", "content": None},
            {"role": "user", "content": [{"type": "text", "text": "a"}, "b"], "name": "me"},
            {
                "role": "assistant",
                "reasoning": "so",
                "refusal": None,
                "function_call": None,
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"function": {"name": "f", "arguments": {"x": 1}}},
                ],
            },
            {"role": "tool", "content": "5", "tool_call_id": "c"},
            {"role": "assistant", "content": "x", "reasoning_content": "y", "tool_calls": None},
        ],
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
        documents=[{"text": "d"}],
    ).requests
    assert request.messages == (
        ChatMessage("system", ""),
        ChatMessage("user", (ContentPart("a"), ContentPart("b")), name="me"),
        ChatMessage(
            "assistant",
            tool_calls=(ToolCall("f", "{}", "c"), ToolCall("f", {"x": 1})),
            reasoning_content="so",
        ),
        ChatMessage("tool", "5", tool_call_id="c"),
        ChatMessage("assistant", "x", reasoning_content="y"),
    )
    assert json.dumps(request.tools) == json.dumps([TOOL])  # in its order, as it was written
    assert request.tool_choice == NamedTool("f")
    assert (request.parallel_tool_calls, request.parse_answer) == (False, True)
    assert request.documents == ({"text": "d"},)
    for choice in ("none", "auto", "required"):
        assert call("chat", tools=[TOOL], tool_choice=choice).requests[0].tool_choice == choice
    assert not call("completion").requests[0].parse_answer


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"messages": None}, "messages", "is needed"),
        ({"messages": []}, "messages", "must not be empty"),
        ({"messages": "hi"}, "messages", "must be a list of messages"),
        ({"messages": ["hi"]}, "messages", "[0] must be an object"),
        ({"messages": [{"content": "hi"}]}, "messages", "[0] role must be a string"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages",
            "[0] content must be a list of parts",
        ),
        ({"messages": [{"role": "user", "name": 5}]}, "messages", "[0] name must be a string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages",
            "[0] content[0] has type 'image_url': only text",
        ),
        (
            {"messages": [{"role": "a", "function_call": {}}]},
            "messages",
            "[0] function_call is not supported",
        ),
        (
            {"messages": [{"role": "a", "tool_calls": [{}]}]},
            "messages",
            "[0] tool_calls[0] function must be an object",
        ),
        ({"messages": [{"role": "user", "content": "hi"}] * 1025}, "messages", "at most 1024"),
        (
            {"messages": [{"role": "user", "content": ["a"] * (MAX_PARTS + 1)}]},
            "messages",
            f"at most {MAX_PARTS} content parts",
        ),
        ({"tools": {}}, "tools", "must be a list of objects"),
        ({"tools": ["f"]}, "tools", "[0] must be an object"),
        ({"tools": [TOOL] * 129}, "tools", "at most 128"),
        ({"tools": [{"type": "web_search"}]}, "tools", "only 'function' is supported"),
        ({"tool_choice": "sometimes"}, "tool_choice", "must be none, auto, required"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "must be none, auto"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"documents": [5]}, "documents", "[0] must be an object"),
    ],
)
def test_what_cannot_be_taken_is_named(fields: dict[str, Any], field: str, text: str) -> None:
    found = wrong("chat", **fields)
    assert list(found) == [field]
    assert text in found[field]


SAID = [
    MessageDelta(reasoning_content="let me "),
    MessageDelta(reasoning_content="see"),
    MessageDelta("I call"),
    MessageDelta(tool_calls=(ToolCallDelta(0, "c0", "f", "{"),)),
    MessageDelta(tool_calls=(ToolCallDelta(0, arguments="}"), ToolCallDelta(1, "c1", "g", "{}"))),
    MessageDelta(),
]
CALLS = [
    {"id": "c0", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    {"id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]


def test_an_answer_with_calls() -> None:
    found = answer(*make("chat"), said=SAID)
    ChatCompletion.model_validate(found, strict=True)
    (choice,) = found["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "I call",
        "refusal": None,
        "reasoning_content": "let me see",
        "reasoning": "let me see",
        "tool_calls": CALLS,
    }
    (choice,) = answer(
        *make("chat", include_reasoning=False), said=[*SAID[3:], *[MessageDelta()] * 3]
    )["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": None, "refusal": None, "tool_calls": CALLS
    }  # fmt: skip
    cut = answer(*make("chat"), said=SAID, reason=FinishReason.LENGTH)
    assert cut["choices"][0]["finish_reason"] == "length"


def test_calls_by_increments() -> None:
    found = chunks(*make("chat", stream=True), said=SAID)
    for one in found:
        ChatCompletionChunk.model_validate(one, strict=True)
    deltas = [choice["delta"] for one in found for choice in one["choices"]]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "let me ", "reasoning": "let me "},
        {"reasoning_content": "see", "reasoning": "see"},
        {"content": "I call"},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "c0",
                    "type": "function",
                    "function": {"name": "f", "arguments": "{"},
                }
            ]
        },
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": "}"}},
                {
                    "index": 1,
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "g", "arguments": "{}"},
                },
            ]
        },
        {"content": ""},
    ]
    assert found[-2]["choices"][0]["finish_reason"] == "tool_calls"
    silent = chunks(*make("chat", stream=True, include_reasoning=False), said=SAID)
    assert "reasoning" not in json.dumps(silent)
