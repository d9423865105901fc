"""Messages of answers that a tool choice has made calls: JSON, as the choice's schema says."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ...api.answers import TokenEvent
from ...api.messages import function_of
from ...api.parsed import MessageDelta, ToolCallDelta
from .parsing import with_message

_ANY = {"type": "object"}
_PARAMETERS = "/properties/parameters"


def arguments_schema(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema of a tool's arguments."""
    return function_of(tool).get("parameters") or _ANY


def calls_schema(tools: Sequence[Mapping[str, Any]], parallel: bool) -> dict[str, Any]:
    """Schema of a list of calls, one at least; each has the name of a tool and its parameters."""
    kinds = [
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "enum": [function_of(tool)["name"]]},
                "parameters": _moved(_bare(tool), f"#/items/anyOf/{i}{_PARAMETERS}"),
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for i, tool in enumerate(tools)
    ]
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": kinds}}
    return schema if parallel else schema | {"maxItems": 1}


def _bare(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of a tool's arguments without a name of its own, below which it would have to lie."""
    return {key: value for key, value in arguments_schema(tool).items() if key != "$id"}


def _moved(schema: Any, root: str) -> Any:
    """Schema whose references within itself are those of a part of another, at `root`."""
    if isinstance(schema, list | tuple):
        return [_moved(one, root) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved


class NamedCallParser:
    """MessageParser of answers that are the arguments of one tool."""

    def __init__(self, name: str, choices: int) -> None:
        self._name, self._begun = name, [False] * choices

    def read(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        return [with_message(event, self._delta(event)) for event in events]

    async def aread(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        return self.read(events)

    def close(self) -> None:
        pass

    def _delta(self, event: TokenEvent) -> MessageDelta:
        if self._begun[event.index]:
            call = ToolCallDelta(0, arguments=event.text)
        else:
            self._begun[event.index] = True
            call = ToolCallDelta(0, new_id(), self._name, event.text)
        return MessageDelta(tool_calls=(call,))


class CallListParser:
    """MessageParser of answers that are lists of calls."""

    def __init__(self, choices: int) -> None:
        self._lists = [_CallList() for _ in range(choices)]

    def read(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        return [with_message(e, self._lists[e.index].delta(e)) for e in events]

    async def aread(self, events: Sequence[TokenEvent], whole: bool = False) -> list[TokenEvent]:
        return self.read(events)

    def close(self) -> None:
        pass


class _CallList:
    """JSON text of a list, read up to each call's end: a character is looked at once."""

    def __init__(self) -> None:
        self._call: list[str] = []
        """Text of the call that is begun."""
        self._depth = self._calls = 0
        self._in_text = self._escaped = False

    def delta(self, event: TokenEvent) -> MessageDelta:
        calls, content = [], ""
        for char in event.text:
            if self._is_end(char):
                text, self._call = "".join(self._call), []
                if call := self._read(text):
                    calls.append(call)
                else:
                    content += text
        if event.finish_reason is not None:
            content += "".join(self._call)  # cut off: no call yet
        return MessageDelta(content, tool_calls=tuple(calls))

    def _is_end(self, char: str) -> bool:
        """Take a character; True for the last of a call."""
        if self._depth > 1 or char == "{":
            self._call.append(char)
        if self._in_text:
            self._in_text = self._escaped or char != '"'
            self._escaped = char == "\\" and not self._escaped
        elif char == '"':
            self._in_text = True
        elif char in "[{":
            self._depth += 1
        elif char in "]}":
            self._depth -= 1
            return self._depth == 1
        return False

    def _read(self, text: str) -> ToolCallDelta | None:
        try:
            call = json.loads(text)
            name, arguments = call["name"], call["parameters"]
            written = json.dumps(arguments, ensure_ascii=False)
            f"{name}{written}".encode()
        except (ValueError, RecursionError, TypeError, KeyError):
            return None
        self._calls += 1
        return ToolCallDelta(self._calls - 1, new_id(), str(name), written)


def new_id() -> str:
    """Make the id of a call."""
    return f"call_{secrets.token_hex(12)}"
