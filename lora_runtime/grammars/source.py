"""Structured answers to the grammars that llguidance compiles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llguidance import regex_to_lark

from ..api.structured import StructuredAnswer, StructuredKind
from ..errors import InvalidRequestError
from .check import OPTIONS

_OPTIONS = {
    # At most one space, and no line's end: small models go on with white space for ever.
    "item_separator": ",[ ]?",
    "key_separator": ":[ ]?",
    "whitespace_flexible": False,
    "whitespace_pattern": None,
    # What cannot be held to is refused, not passed over and not come close to.
    "lenient": False,
    "coerce_one_of": False,
}
_NOT_KNOWN = ("disallow", "divisibleBy", "extends", "x-guidance")
"""Keywords that llguidance passes over, as it does annotations; draft 3 has the first three."""
_LEVELS = 100
_NAMED = {"properties", "patternProperties", "$defs", "definitions"}
_DATA = {"const", "enum", "default", "examples", "required", "type"}
"""Keywords whose values are no schemas."""
_TEMPERATURE = re.compile(r"\[[^\]]*\btemperature\s*=")


def grammar_of(answer: StructuredAnswer) -> str:
    """Lark grammar of an answer, as llguidance has them. Raises InvalidRequestError."""
    match answer.kind:
        case StructuredKind.JSON_OBJECT:
            text = _of_schema({"type": "object"})
        case StructuredKind.JSON_SCHEMA:
            text = _of_schema(_schema(answer.text))
        case StructuredKind.REGEX:
            text = f"start: /{regex_to_lark(answer.text)}/"
        case StructuredKind.CHOICE:
            text = "start: " + " | ".join(map(json.dumps, answer.choices))
        case _:
            text = _lark(answer.text)
    return f"{text}\n{OPTIONS}\n"


def refusal(text: str) -> InvalidRequestError:
    """Refusal of a request for its structured answer."""
    return InvalidRequestError.of("structured", text)


def _of_schema(schema: dict[str, Any]) -> str:
    return f"start: %json {json.dumps(schema | {'x-guidance': _OPTIONS})}"


def _schema(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text, parse_constant=_no_constant)
        if schema is True:
            return {}
        if not isinstance(schema, dict):
            raise ValueError("it is no object")
        for keyword in (key for part in _schemas(schema) for key in _NOT_KNOWN if key in part):
            raise refusal(f"has the keyword {keyword!r}, which is not supported")
        if any(isinstance(part.get("required"), bool) for part in _schemas(schema)):
            raise refusal("has the keyword 'required' of draft 3, which is not supported")
    except RecursionError:
        raise refusal("is no JSON Schema: it has too many levels") from None
    except ValueError as error:
        raise refusal(f"is no JSON Schema: {error}"[:300]) from error
    return schema


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema and those within it."""
    waiting: list[tuple[Any, bool, int]] = [(schema, True, 0)]
    while waiting:
        value, is_schema, level = waiting.pop()
        if level > _LEVELS:
            raise ValueError("it has too many levels")
        if isinstance(value, list):
            waiting += [(one, True, level + 1) for one in value]
        elif isinstance(value, dict):
            if is_schema:
                yield value
            waiting += [
                (one, not (is_schema and key in _NAMED), level + 1)
                for key, one in value.items()
                if not (is_schema and key in _DATA)
            ]


def _lark(text: str) -> str:
    if text.lstrip().startswith("{"):  # llguidance takes it for a list of grammars, and options
        raise refusal("is no Lark grammar")
    if _TEMPERATURE.search(text):
        raise refusal("has the attribute 'temperature', which is not supported")
    for word in ("x-guidance", "%llguidance"):
        if word in text:
            raise refusal(f"has the keyword {word!r}, which is not supported")
    return text
