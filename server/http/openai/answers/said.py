"""What a chat's answer says: content, reasoning and tool calls, whole and by increments."""

from __future__ import annotations

from typing import Any

from lora_runtime import Choice, FinishReason, MessageDelta, TokenEvent, ToolCallDelta

_REASONS = {
    FinishReason.EOS: "stop",
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
}


def reason(ended: FinishReason, has_calls: bool) -> str:
    """Why a choice ended, in OpenAI's words."""
    told = _REASONS[ended]
    return "tool_calls" if has_calls and told == "stop" else told


def message(choice: Choice, echo: str, include_reasoning: bool) -> dict[str, Any]:
    """Make the assistant's message. Without a text beside its calls its content is null."""
    said, content = choice.message, choice.text
    if said is not None:
        content = said.content
    found: dict[str, Any] = {"role": "assistant", "content": echo + content, "refusal": None}
    if said is None:
        return found
    if include_reasoning:
        found |= _reasoning(said.reasoning_content)
    if said.tool_calls:
        found["content"] = found["content"] or None
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in said.tool_calls
        ]
    return found


def delta(event: TokenEvent, include_reasoning: bool) -> dict[str, Any]:
    """Make what an event adds; a text that is not told apart yet comes with a later one."""
    said = event.message
    if said is None:
        return {"content": event.text}
    found: dict[str, Any] = {}
    if include_reasoning:
        found |= _reasoning(said.reasoning_content)
    if said.tool_calls:
        found["tool_calls"] = [_call(call) for call in said.tool_calls]
    if said.content or not found:
        found["content"] = said.content
    return found


def _reasoning(text: str) -> dict[str, str]:
    """Make reasoning by both names that clients look for: vLLM's is the shorter one by now."""
    return {"reasoning_content": text, "reasoning": text} if text else {}


def has_calls(said: MessageDelta | None) -> bool:
    return said is not None and bool(said.tool_calls)


def _call(call: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if not (call.id or call.name):
        return {"index": call.index, "function": function}
    named = {"name": call.name, **function}
    return {"index": call.index, "id": call.id, "type": "function", "function": named}
