"""Conversations as chat templates of today take them: turns with tools, calls and reasoning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .json_values import JsonBounds, check_text, plain, read_object, too_much

TEXT, FUNCTION = "text", "function"
MAX_TOOL_CHARACTERS = 256 << 10
"""Characters of a request's tools, documents and calls' arguments, each."""
BOUNDS = JsonBounds(values=16 << 10, depth=32, characters=MAX_TOOL_CHARACTERS)
MAX_PARTS = 1024
"""Content parts, and calls, of one request's messages."""
_MAX_NAME = 256
_CHOICES = ("", "none", "auto", "required")
Object = str | Mapping[str, Any]
"""A JSON object, or its text."""


@dataclass(frozen=True)
class ContentPart:
    """Part of a message's content. Texts are all that a text model can be given."""

    text: str = ""
    type: str = TEXT


@dataclass(frozen=True)
class ToolCall:
    """Call of a tool by the assistant. `arguments`: an object, or its JSON text; "" is none."""

    name: str
    arguments: Object = field(default="", hash=False)
    id: str = ""
    type: str = FUNCTION

    def values(self) -> Mapping[str, Any]:
        """Arguments by name. Raises ValueError."""
        return read_object(self.arguments or {}, BOUNDS)


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation, rendered by the tokenizer's chat template.

    `tool_call_id`: the call that a tool's turn answers. `reasoning_content`: what the assistant
    thought before it answered.
    """

    role: str
    content: str | tuple[ContentPart, ...] = ""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning_content: str = ""

    def values(self) -> dict[str, Any]:
        """Values that a template finds in the turn. Raises ValueError."""
        content: Any = self.content
        if not isinstance(content, str):
            content = [{"type": TEXT, "text": part.text} for part in content]
        found = {"role": self.role, "content": content}
        for key in ("name", "tool_call_id", "reasoning_content"):
            if value := getattr(self, key):
                found[key] = value
        if self.tool_calls:
            found["tool_calls"] = [_call_values(call) for call in self.tool_calls]
        return found

    def texts(self) -> Iterator[str]:
        """All that is written in it, but for arguments that are objects."""
        yield from (self.role, self.name, self.tool_call_id, self.reasoning_content)
        if isinstance(self.content, str):
            yield self.content
        else:
            yield from (part.text for part in self.content)
        for call in self.tool_calls:
            yield from (call.name, call.id)
            if isinstance(call.arguments, str):
                yield call.arguments


@dataclass(frozen=True)
class NamedTool:
    """Choice of one tool, which the answer must call."""

    name: str


ToolChoice = str | NamedTool
"""A tool's name; or none, auto, required; "" is auto where there are tools."""


def _call_values(call: ToolCall) -> dict[str, Any]:
    values = {
        "type": FUNCTION,
        "function": {"name": call.name, "arguments": plain(call.values())},
    }
    return {"id": call.id, **values} if call.id else values


def wrong_messages(messages: Sequence[ChatMessage]) -> str:
    """Say what is wrong with a conversation's parts and calls; "" if nothing is."""
    parts = sum(len(m.content) for m in messages if not isinstance(m.content, str))
    if parts + sum(len(m.tool_calls) for m in messages) > MAX_PARTS:
        return f"at most {MAX_PARTS} content parts and tool calls"
    arguments: list[Mapping[str, Any]] = []
    given = (call.arguments for message in messages for call in message.tool_calls)
    try:
        check_text([text for text in given if isinstance(text, str)], BOUNDS)
    except ValueError as error:
        return f"arguments of tool calls: {error}"
    for i, message in enumerate(messages):
        if not isinstance(message.content, str):
            for j, part in enumerate(message.content):
                if part.type != TEXT:
                    return f"[{i}].content[{j}] has type {part.type[:80]!r}: only {TEXT!r} is supported"
        for j, call in enumerate(message.tool_calls):
            if wrong := _wrong_call(call, arguments):
                return f"[{i}].tool_calls[{j}] {wrong}"
    wrong = too_much(arguments, BOUNDS)
    return wrong and f"arguments of tool calls: {wrong}"


def _wrong_call(call: ToolCall, arguments: list[Mapping[str, Any]]) -> str:
    """Say what is wrong with a call; its arguments are put to the others."""
    if call.type != FUNCTION:
        return f"has type {call.type[:80]!r}: only {FUNCTION!r} is supported"
    if not call.name:
        return "has no name"
    try:
        arguments.append(call.values())
    except ValueError as error:
        return f"has arguments that cannot be taken: {str(error)[:200]}"
    return ""


def read_objects(given: Sequence[Object]) -> tuple[Mapping[str, Any], ...]:
    """Read tools or documents, in bounds. Raises ValueError."""
    check_text([one for one in given if isinstance(one, str)], BOUNDS)
    found = []
    for i, one in enumerate(given):
        try:
            found.append(read_object(one, BOUNDS))
        except ValueError as error:
            raise ValueError(f"[{i}] {str(error)[:200]}") from None
    if wrong := too_much(found, BOUNDS):
        raise ValueError(wrong)
    return tuple(found)


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function that a tool is; some give it without a tool around it."""
    return tool.get(FUNCTION, tool)


def wrong_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    """Say what is wrong with tools that were read; "" if nothing is."""
    for i, tool in enumerate(tools):
        function = function_of(tool)
        if tool.get("type", FUNCTION) != FUNCTION:
            return f"[{i}] has type {str(tool['type'])[:80]!r}: only {FUNCTION!r} is supported"
        if not isinstance(function, Mapping):
            return f"[{i}].function must be an object"
        name, parameters = function.get("name"), function.get("parameters")
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
            return f"[{i}] needs a name of 1 to {_MAX_NAME} characters"
        if not isinstance(parameters, Mapping | None):
            return f"[{i}].function.parameters must be an object"
    return ""


def wrong_choice(choice: ToolChoice, tools: Sequence[Mapping[str, Any]]) -> str:
    """Say what is wrong with a choice among tools; "" if nothing is."""
    if isinstance(choice, NamedTool):
        names = {function_of(tool).get("name") for tool in tools}
        return "" if choice.name in names else f"no tool is named {choice.name[:80]!r}"
    if choice not in _CHOICES:
        return f"{str(choice)[:80]!r} is none of none, auto, required and a tool by name"
    return "" if tools or choice != "required" else "needs tools"


def wrong_chat(
    messages: Sequence[ChatMessage] | None,
    tools: Sequence[Object],
    documents: Sequence[Object],
    choice: ToolChoice,
    others: Mapping[str, Any],
) -> dict[str, str]:
    """Say what is wrong with a chat, by field. `others`: what its template gets beside."""
    wrong = {"messages": wrong_messages(messages or ())}
    read: dict[str, tuple[Mapping[str, Any], ...]] = {"tools": (), "documents": ()}
    for name, given in (("tools", tools), ("documents", documents)):
        try:
            read[name] = read_objects(given)
        except ValueError as error:
            wrong[name] = str(error)
        if given and not messages:
            wrong[name] = "needs messages: nothing else has a template"
        elif given and isinstance(others, Mapping) and name in others:
            wrong[name] = "is in chat_template_kwargs, too: give it once"
    wrong["tools"] = wrong.get("tools") or wrong_tools(read["tools"])
    if not wrong["tools"]:
        wrong["tool_choice"] = wrong_choice(choice, read["tools"])
    return wrong
