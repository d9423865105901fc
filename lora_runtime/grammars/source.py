"""Structured answers to the grammars that llguidance compiles."""

from __future__ import annotations

import json
import re
from typing import Any

from llguidance import regex_to_lark

from ..api.structured import StructuredAnswer, StructuredKind
from .check import OPTIONS
from .schemas import read_schema, refusal

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
_TEMPERATURE = re.compile(r"\[[^\]]*\btemperature\s*=")


def grammar_of(answer: StructuredAnswer) -> str:
    """Lark grammar of an answer, as llguidance has them. Raises InvalidRequestError."""
    match answer.kind:
        case StructuredKind.JSON_OBJECT:
            text = _of_schema({"type": "object"})
        case StructuredKind.JSON_SCHEMA:
            text = _of_schema(read_schema(answer.text))
        case StructuredKind.REGEX:
            text = f"start: /{regex_to_lark(answer.text)}/"
        case StructuredKind.CHOICE:
            text = "start: " + " | ".join(map(json.dumps, answer.choices))
        case _:
            text = _lark(answer.text)
    return f"{text}\n{OPTIONS}\n"


def _of_schema(schema: dict[str, Any]) -> str:
    return f"start: %json {json.dumps(schema | {'x-guidance': _OPTIONS})}"


def _lark(text: str) -> str:
    if text.lstrip().startswith("{"):  # llguidance takes it for a list of grammars, and options
        raise refusal("is no Lark grammar")
    if _TEMPERATURE.search(text):
        raise refusal("has the attribute 'temperature', which is not supported")
    for word in ("x-guidance", "%llguidance"):
        if word in text:
            raise refusal(f"has the keyword {word!r}, which is not supported")
    return text
