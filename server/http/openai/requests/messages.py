"""Conversations, tools and documents, as OpenAI's clients write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lora_runtime import MAX_PARTS, ChatMessage, ContentPart, NamedTool, ToolCall

from .kinds import Kind, Wrong, in_list, list_of, to_list, to_object, to_text

T = TypeVar("T")
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
        _read(message, "role", to_text),
        _read(message, "content", _content),
        name=_text_of(message, "name"),
        tool_calls=_read(message, "tool_calls", _calls),
        tool_call_id=_text_of(message, "tool_call_id"),
        # vLLM gives it by both names.
        reasoning_content=_text_of(
            message, "reasoning" if reasoning is None else "reasoning_content"
        ),
    )


def _read(owner: Mapping[str, Any], name: str, read: Callable[[Any], T]) -> T:
    """Read what an object has by a name; what is wrong with it is said with that name."""
    try:
        return read(owner.get(name))
    except Wrong as wrong:
        text = str(wrong)
        raise Wrong(name + ("" if text.startswith("[") else " ") + text) from None


def _text_of(message: Mapping[str, Any], name: str) -> str:
    return _read(message, name, lambda value: "" if value is None else to_text(value))


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


def _calls(value: Any) -> tuple[ToolCall, ...]:
    return in_list(value or [], "tool calls", _call)


def _call(value: Any) -> ToolCall:
    call = to_object(value)
    function = _read(call, "function", to_object)
    arguments = function.get("arguments")
    if not isinstance(arguments, Mapping):
        arguments = _text_of(function, "arguments")
    return ToolCall(
        _read(function, "name", to_text),
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
        "reasoning": _TEXT_OR_NULL,
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
