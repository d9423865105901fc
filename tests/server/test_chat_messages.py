"""Conversations with tools over gRPC: as they are read, and their answers as messages."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from loramux.v1 import inference_pb2 as pb

from lora_runtime import (
    ChatMessage,
    ContentPart,
    InvalidRequestError,
    MessageDelta,
    NamedTool,
    ParsedMessage,
    Request,
    ToolCall,
    ToolCallDelta,
)
from lora_runtime.api.answers import Choice, FinishReason, Generation, Timings, TokenEvent, Usage
from lora_runtime.requests.handle import RequestHandle
from server.services.answers import to_increment, to_response
from server.services.inference import to_request

from ..support.servers import Harness, refused

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"b": 1.0, "a": 10}}}


def test_a_conversation_as_it_is_read() -> None:
    message = pb.GenerateRequest(
        messages=[
            pb.ChatMessage(role="user", parts=[pb.ContentPart(text="a"), {"type": "text"}]),
            pb.ChatMessage(
                role="assistant",
                tool_calls=[pb.ToolCall(id="c", name="f", arguments='{"x": 1}')],
                reasoning_content="so",
            ),
            pb.ChatMessage(role="tool", content="5", name="f", tool_call_id="c"),
        ],
        tools=[json.dumps(TOOL)],
        documents=['{"text": "d"}'],
        tool_choice=pb.ToolChoice(function="f"),
        parallel_tool_calls=False,
        parse_answer=True,
    )
    assert to_request(message, "", None) == Request(
        messages=(
            ChatMessage("user", (ContentPart("a"), ContentPart(""))),
            ChatMessage(
                "assistant", tool_calls=(ToolCall("f", '{"x": 1}', "c"),), reasoning_content="so"
            ),
            ChatMessage("tool", "5", name="f", tool_call_id="c"),
        ),
        tools=(json.dumps(TOOL),),
        documents=('{"text": "d"}',),
        tool_choice=NamedTool("f"),
        parallel_tool_calls=False,
        parse_answer=True,
    )
    assert to_request(pb.GenerateRequest(prompt="x"), "", None) == Request(prompt="x")


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("messages", {"messages": [{"content": "a", "parts": [{"text": "b"}]}]}),
        ("tool_choice", {"tool_choice": {"mode": "MODE_AUTO", "function": "f"}}),
        ("tool_choice", {"tool_choice": {"mode": 9}}),
    ],
)
def test_one_of_two(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        to_request(pb.GenerateRequest(**fields), "", None)


def test_messages_of_answers() -> None:
    usage, timings = Usage(1, 0, 1), Timings(0, 0, 0)
    parsed = ParsedMessage("a", "b", (ToolCall("f", "{}", "c"),))
    choice = Choice(0, "text", (1,), (), FinishReason.EOS, usage, timings, parsed)
    answer = to_response(Generation("id", "", "", (choice,))).choices[0]
    assert (answer.content, answer.reasoning_content) == ("a", "b")
    assert [*answer.tool_calls] == [pb.ToolCall(id="c", name="f", arguments="{}")]
    handle = RequestHandle(Request(prompt="x"), "id", (1,), (), lambda _: None)
    delta = MessageDelta("a", "b", (ToolCallDelta(1, "c", "f", "{"),))
    part = to_increment(handle, TokenEvent(0, "text", (1,), message=delta))
    assert (part.content, part.reasoning_content, part.text) == ("a", "b", "text")
    assert [*part.tool_calls] == [pb.ToolCallDelta(index=1, id="c", name="f", arguments="{")]
    assert not to_increment(handle, TokenEvent(0, "text", (1,))).content


async def test_answers_without_a_template_are_content(served: Harness) -> None:
    done = await served.generate(prompt="hi", max_new_tokens=4, parse_answer=True)
    assert done.choices[0].content == done.text
    assert not done.choices[0].tool_calls


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": [{"parts": [{"type": "image_url"}]}]}, "'image_url'"),
        ({"messages": [{}], "tools": ["["]}, "tools: [0] is no JSON text"),
        ({"messages": [{}], "tools": ['{"type": "web"}']}, "tools: [0] has type 'web'"),
        ({"messages": [{}], "documents": ["1"]}, "documents: [0] must be an object"),
        ({"messages": [{}], "tool_choice": {"function": "f"}}, "no tool is named 'f'"),
        ({"prompt": "x", "tools": ['{"function": {"name": "f"}}']}, "tools: needs messages"),
    ],
    ids=["part", "JSON", "type", "document", "choice", "prompt"],
)
async def test_what_cannot_be_taken_is_named(
    served: Harness, fields: dict[str, Any], text: str
) -> None:
    error = await refused(served.generate(**fields), grpc.StatusCode.INVALID_ARGUMENT)
    assert text in (error.details() or "")
