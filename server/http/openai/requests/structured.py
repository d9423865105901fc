"""Forms that an answer must have: OpenAI's response_format, vLLM's structured_outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lora_runtime import StructuredAnswer, StructuredKind

from .kinds import Kind, Wrong, in_list, list_of, to_boolean, to_object, to_text

_FORMATS = ("text", "json_object", "json_schema")
_KINDS = ("json", "json_object", "regex", "choice", "grammar")


def to_format(value: Any) -> StructuredAnswer | None:
    """Read a response_format; of the type text it is none."""
    given = to_object(value)
    kind = given.get("type")
    if kind not in _FORMATS:
        raise Wrong(f"type must be one of {', '.join(_FORMATS)}")
    if kind == "text":
        return None
    inner = given if kind == "json_object" else to_object(given.get("json_schema"))
    if inner.get("schema") is not None:  # of a json_object, too: other servers have it there
        return to_schema(inner["schema"])
    if kind == "json_schema":
        raise Wrong("json_schema needs a schema")
    return StructuredAnswer(StructuredKind.JSON_OBJECT)


def to_structured(value: Any) -> StructuredAnswer | None:
    """Read vLLM's form: one of several kinds, by its name."""
    given = {name: one for name, one in to_object(value).items() if not _is_nothing(name, one)}
    if others := given.keys() - {*_KINDS}:
        raise Wrong(f"{min(others)[:64]} is not supported")
    if len(given) > 1:
        raise Wrong(f"only one of {', '.join(_KINDS)}")
    if not given:
        return None
    ((name, one),) = given.items()
    return _READERS[name](one)


def _is_nothing(name: str, value: Any) -> bool:
    """Whether it asks for nothing. A schema may be false, and an expression empty: those ask."""
    return value is None or (value is False and name != "json")


def to_schema(value: Any) -> StructuredAnswer:
    """Read a JSON schema, or the text of one. It is written as it came: names keep their order."""
    if not isinstance(value, str):
        if not isinstance(value, Mapping | bool):
            raise Wrong("a schema must be an object")
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return StructuredAnswer(StructuredKind.JSON_SCHEMA, value)


def to_regex(value: Any) -> StructuredAnswer:
    return StructuredAnswer(StructuredKind.REGEX, to_text(value))


def to_grammar(value: Any) -> StructuredAnswer:
    return StructuredAnswer(StructuredKind.LARK, to_text(value))


def to_choices(value: Any) -> StructuredAnswer:
    return StructuredAnswer(StructuredKind.CHOICE, choices=in_list(value, "strings", to_text))


def _to_json_object(value: Any) -> StructuredAnswer | None:
    return StructuredAnswer(StructuredKind.JSON_OBJECT) if to_boolean(value) else None


_READERS = {
    "json": to_schema,
    "json_object": _to_json_object,
    "regex": to_regex,
    "choice": to_choices,
    "grammar": to_grammar,
}
_OBJECT_OR_TEXT = {"anyOf": [{"type": "object"}, {"type": "string"}]}
_STRINGS = list_of({"type": "string"})
RESPONSE_FORMAT = Kind(
    to_format,
    {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": list(_FORMATS)},
            "json_schema": {"type": "object", "properties": {"schema": {"type": "object"}}},
        },
    },
)
STRUCTURED_OUTPUTS = Kind(
    to_structured,
    {
        "type": "object",
        "properties": {
            "json": _OBJECT_OR_TEXT,
            "json_object": {"type": "boolean"},
            "regex": {"type": "string"},
            "choice": _STRINGS,
            "grammar": {"type": "string"},
        },
    },
)
JSON_SCHEMA = Kind(to_schema, _OBJECT_OR_TEXT)
REGEX = Kind(to_regex, {"type": "string"})
GRAMMAR = Kind(to_grammar, {"type": "string"})
CHOICE = Kind(to_choices, _STRINGS)
