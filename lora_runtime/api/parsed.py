"""Answers read as messages: their text apart from reasoning and tool calls."""

from __future__ import annotations

from dataclasses import dataclass

from .messages import ToolCall


@dataclass(frozen=True)
class ToolCallDelta:
    """What is new of an answer's call number `index`: `id` and `name` the first time, and more of
    the JSON text of its arguments."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class MessageDelta:
    """What an event adds to its choice's message; nothing while it is not clear what a text is."""

    content: str = ""
    reasoning_content: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


@dataclass(frozen=True)
class ParsedMessage:
    """A choice as a message. The calls' arguments are JSON texts."""

    content: str = ""
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def joined(deltas: list[MessageDelta]) -> ParsedMessage:
    """Message that the deltas of a choice make."""
    calls: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        for call in delta.tool_calls:
            calls.setdefault(call.index, []).append(call)
    return ParsedMessage(
        "".join(delta.content for delta in deltas),
        "".join(delta.reasoning_content for delta in deltas),
        tuple(
            ToolCall(parts[0].name, "".join(part.arguments for part in parts), parts[0].id)
            for _, parts in sorted(calls.items())
        ),
    )
