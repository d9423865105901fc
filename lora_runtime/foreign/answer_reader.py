"""Message of an answer, told apart by a response template as transformers does."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Any

from transformers.utils.chat_parsing import ResponseParser
from transformers.utils.chat_parsing.response_templates import load_response_template

_CALLS = "tool_calls"
_FIELDS = {
    "content": "content",
    "reasoning_content": "reasoning",
    "thinking": "reasoning",
    "reasoning": "reasoning",
}
"""Parts of a message, by the fields that templates name."""


class AnswerReader:
    """Message of one answer, as it grows."""

    def __init__(
        self, template: dict[str, Any], prompt: str, tools: list[Any], takes_calls: bool
    ) -> None:
        spec = load_response_template(template)
        for field in spec.fields.values():
            field.optional = True  # an answer may have any end
        self._parser = _Parser(spec, prefix=prompt, tools=tools)
        self._takes_calls = takes_calls
        self._texts = {"content": _Text(), "reasoning": _Text()}
        self._new: dict[str, Any] = {}
        self._take(self._parser.initial_events)  # what the prompt ends with is no answer
        self._parser.begin_answer()
        for part in self._texts.values():
            part.begin_answer()

    def read(self, text: str, is_last: bool) -> dict[str, Any]:
        self._new = {"content": "", "reasoning": "", "calls": []}
        self._take(self._parser.feed(text))
        if is_last:
            self._take(self._parser.finalize()[1])
        field, settled, body = self._parser.state()
        if field is not None and _is_text(field):
            settled -= min(len(body), len(self._texts[_FIELDS[field.name]].waits))
        return {**self._new, "settled": max(0, settled)}

    def _take(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            name = event["field"]
            field = self._parser.fields[name]
            is_text = _is_text(field)
            match event["type"]:
                case "region_open" if is_text:
                    self._texts[_FIELDS[name]].begin(field)
                case "region_chunk" if is_text:
                    self._add_behind(_FIELDS[name], event["text"], event["of_prompt"])
                case "region_close" if name == _CALLS:
                    self._close_calls(event)
                case "region_close" if name in _FIELDS and not is_text:
                    value = event["value"]
                    self._add(_FIELDS[name], value if isinstance(value, str) else event["raw"])
                case "region_failed" if name == _CALLS or (name in _FIELDS and not is_text):
                    self._add("content", event["raw"])

    def _close_calls(self, event: dict[str, Any]) -> None:
        """Take calls, or their text where they are none."""
        calls = _calls_of(event["value"]) if self._takes_calls else None
        if calls is None:
            self._add("content", event["raw"])
        elif self._new:
            self._new["calls"] += calls

    def _add_behind(self, part: str, text: str, of_prompt: int) -> None:
        """Add a text whose first characters are the prompt's: they may have been held back."""
        if of_prompt:
            self._texts[part].add(text[:of_prompt])
            self._texts[part].begin_answer()
        self._add(part, text[of_prompt:])

    def _add(self, part: str, text: str) -> None:
        new = self._texts[part].add(text)
        if self._new:
            self._new[part] += new


class _Text:
    """Text of a part, without the white space around it."""

    def __init__(self) -> None:
        self.waits = ""
        """White space that is part of it if more comes."""
        self._strips_left = True
        self._strips = True
        self._has_any = False

    def begin(self, field: Any) -> None:
        """Begin a region of a field; another may have been before."""
        self._strips = field.content_args.get("strip", True)
        if not self._has_any:
            self._strips_left = self._strips
        elif field.join is not None:
            self.waits = field.join if self._strips else self.waits + field.join
            self._strips_left = self._strips

    def begin_answer(self) -> None:
        self.waits = ""

    def add(self, text: str) -> str:
        """Add to it; gives what is sure to be part of it."""
        if self._strips_left:
            text = text.lstrip()
        if not text:
            return ""
        self._strips_left, self._has_any = False, True
        text = self.waits + text
        end = len(text.rstrip()) if self._strips else len(text)
        self.waits = text[end:]
        return text[:end]


class _Parser(ResponseParser):
    """transformers' parser, which goes on where a region is not what its field says."""

    _begun = 0
    """Where the region begins in the text, with what opens it."""
    _answer = 0
    """Where the answer begins, behind the prompt's end."""

    def begin_answer(self) -> None:
        self._answer = len(self._buffer)

    @property
    def fields(self) -> dict[str, Any]:
        return self._spec.fields

    def state(self) -> tuple[Any, int, str]:
        """The field of the open region, if there is one; how many characters of the answer are read
        up to it, or in it if it is text; and what it has in it."""
        field = self.fields[self._current] if self._opened and self._current else None
        is_read = field is None or _is_text(field)
        return field, (self._pos if is_read else self._begun) - self._answer, self._body

    def _accumulate(self, events: list[dict], text: str) -> None:
        before = len(events)
        super()._accumulate(events, text)
        if len(events) > before:
            events[-1]["of_prompt"] = max(0, min(len(text), self._answer - self._pos))

    def _open_explicit(self, events: list[dict], field: Any, m: Any) -> None:
        super()._open_explicit(events, field, m)
        self._begun = m.start()

    def _reset_to_implicit(self) -> None:
        super()._reset_to_implicit()
        self._begun = self._pos

    def _close_current(self, events: list[dict]) -> None:
        is_implicit, name = self._current == self._implicit_name, self._current
        raw = self._body
        if not is_implicit:
            raw = self._buffer[max(self._begun, self._answer) : self._pos]
        before = len(events)
        try:
            super()._close_current(events)
        except MemoryError:
            raise
        except Exception:  # a text that is no JSON, and whatever else a field is not
            events.append({"type": "region_failed", "field": name, "raw": raw})
            self._reset_to_implicit()
        else:
            for event in events[before:]:
                event["raw"] = raw


def _is_text(field: Any) -> bool:
    """Whether a field is a part that comes as it is."""
    return field.name in _FIELDS and field.content == "text"


def _calls_of(value: Any) -> list[list[str]] | None:
    """Id, name and the JSON text of the arguments of each call; None if it is no call."""
    calls = []
    for one in value if isinstance(value, list) else [value]:
        function = one.get("function", one) if isinstance(one, dict) else None
        if not isinstance(function, dict):
            return None
        # Models write one for the other, and what they wrote would be lost.
        arguments = function.get("arguments", function.get("parameters"))
        name = function.get("name")
        if not isinstance(name, str) or not name:
            return None
        if not isinstance(arguments, str | dict | None):
            return None
        own_id = one.get("id")
        if not isinstance(own_id, str) or not own_id:
            own_id = f"call_{secrets.token_hex(12)}"
        try:
            calls.append([own_id, name, _json_text(arguments)])
            f"{own_id}{name}".encode()
        except (ValueError, RecursionError):  # numbers that are none, halves of characters
            return None
    return calls or None


def _json_text(arguments: str | dict[str, Any] | None) -> str:
    if isinstance(arguments, str):
        arguments.encode()
        return arguments
    text = json.dumps(arguments or {}, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(arguments)
    return text
