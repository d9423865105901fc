"""Conversations, and what their answers may call, from a request's message."""

from __future__ import annotations

from loramux.v1 import inference_pb2 as pb

from lora_runtime import ChatMessage, ContentPart, InvalidRequestError, NamedTool, ToolCall

_MODES = {
    pb.ToolChoice.MODE_UNSPECIFIED: "",
    pb.ToolChoice.MODE_NONE: "none",
    pb.ToolChoice.MODE_AUTO: "auto",
    pb.ToolChoice.MODE_REQUIRED: "required",
}


def to_message(message: pb.ChatMessage) -> ChatMessage:
    """Turn of a conversation. Raises InvalidRequestError."""
    if message.content and message.parts:
        raise InvalidRequestError.of("messages", "give either content or parts of it")
    parts = tuple(ContentPart(part.text, part.type or "text") for part in message.parts)
    return ChatMessage(
        message.role,
        parts or message.content,
        message.name,
        tuple(ToolCall(call.name, call.arguments, call.id) for call in message.tool_calls),
        message.tool_call_id,
        message.reasoning_content,
    )


def to_tool_choice(choice: pb.ToolChoice) -> str | NamedTool:
    """Choice among tools. Raises InvalidRequestError."""
    if choice.function and choice.mode:
        raise InvalidRequestError.of("tool_choice", "give either a mode or a function")
    if choice.function:
        return NamedTool(choice.function)
    if choice.mode not in _MODES:
        raise InvalidRequestError.of("tool_choice", f"there is no mode {choice.mode}")
    return _MODES[choice.mode]
