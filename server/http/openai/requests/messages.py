"""Conversations, tools and documents, as OpenAI's clients write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_runtime import MAX_PARTS, ChatMessage, ContentPart, NamedTool, ToolCall

from .kinds import Kind, Wrong, in_list, list_of, to_list, to_object, to_text

_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_NOT_TAKEN = ("audio", "function_call")
_CHOICES = ("none", "auto", "required")


def to_messages(value: Any) -> tuple[ChatMessage, ...]:
    # Before they are made into objects: the engine counts them again.
    if _parts(value) > MAX_PARTS:
        raise Wrong(f"at most {MAX_PARTS} content parts and tool calls")
    return in_list(value, "messages", _message)


def _parts(messages: Any) -> int:
    found = [message for message in to_list(messages, "messages") if isinstance(message, Mapping)]
    inner = (message.get(name) for message in found for name in ("content", "tool_calls"))
    return sum(len(one) for one in inner if isinstance(one, list))


def _message(value: Any) -> ChatMessage:
    message = to_object(value)
    for name in _NOT_TAKEN:
        if message.get(name) is not None:
            raise Wrong(f"{name} is not supported")
    reasoning = message.get("reasoning_content")
    return ChatMessage(
        to_text(message.get("role")),
        _content(message.get("content")),
        name=_text_of(message, "name"),
        tool_calls=in_list(message.get("tool_calls") or [], "tool calls", _call),
        tool_call_id=_text_of(message, "tool_call_id"),
        # vLLM gives it by both names.
        reasoning_content=_text_of(
            message, "reasoning" if reasoning is None else "reasoning_content"
        ),
    )


def _text_of(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    return "" if value is None else to_text(value)


def _content(value: Any) -> str | tuple[ContentPart, ...]:
    if value is None:
        return ""
    return value if isinstance(value, str) else in_list(value, "parts", _part)


def _part(value: Any) -> ContentPart:
    if isinstance(value, str):
        return ContentPart(value)
    part = to_object(value)
    kind = part.get("type")
    if kind not in _TEXT_PARTS:
        raise Wrong(f"has type {str(kind)[:64]!r}: only text is supported")
    return ContentPart(to_text(part.get("refusal" if kind == "refusal" else "text")))


def _call(value: Any) -> ToolCall:
    call = to_object(value)
    function = to_object(call.get("function"))
    arguments = function.get("arguments")
    if not isinstance(arguments, Mapping):
        arguments = _text_of(function, "arguments")
    return ToolCall(
        to_text(function.get("name")),
        arguments,
        _text_of(call, "id"),
        _text_of(call, "type") or "function",
    )


def to_objects(value: Any) -> tuple[Mapping[str, Any], ...]:
    return in_list(value, "objects", to_object)


def to_choice(value: Any) -> str | NamedTool:
    """None, auto, required, or one tool by its name."""
    if value in _CHOICES:
        return value
    if not isinstance(value, Mapping) or value.get("type") != "function":
        raise Wrong(
            'must be none, auto, required, or {"type": "function", "function": {"name": ...}}'
        )
    return NamedTool(to_text(to_object(value.get("function")).get("name")))


_TEXT_OR_NULL = {"type": ["string", "null"]}
_PART = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"enum": list(_TEXT_PARTS)}},
}
_FUNCTION = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string"},
        "content": {"anyOf": [_TEXT_OR_NULL, list_of(_PART)]},
        "name": _TEXT_OR_NULL,
        "tool_call_id": _TEXT_OR_NULL,
        "reasoning_content": _TEXT_OR_NULL,
        "tool_calls": list_of(
            {"type": "object", "required": ["function"], "properties": {"function": _FUNCTION}}
        ),
    },
}
_OBJECTS = list_of({"type": "object"})
MESSAGES = Kind(to_messages, list_of(_MESSAGE), counted="messages")
TOOLS = Kind(to_objects, _OBJECTS, counted="tools")
DOCUMENTS = Kind(to_objects, _OBJECTS, counted="documents")
TOOL_CHOICE = Kind(
    to_choice, {"anyOf": [{"enum": list(_CHOICES)}, {"type": "object", "required": ["type"]}]}
)
