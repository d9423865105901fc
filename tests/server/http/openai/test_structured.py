"""Structured answers, asked for in each of the forms that clients have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lora_runtime import StructuredAnswer, StructuredKind

from .test_fields import FORMS, call, wrong

SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
BY_SCHEMA = StructuredAnswer(StructuredKind.JSON_SCHEMA, TEXT)
OBJECT = StructuredAnswer(StructuredKind.JSON_OBJECT)
LARK = 'start: "a"'

GIVEN: dict[str, tuple[dict[str, Any], StructuredAnswer | None]] = {
    "text": ({"response_format": {"type": "text"}}, None),
    "object": ({"response_format": {"type": "json_object"}}, OBJECT),
    "schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
            }
        },
        BY_SCHEMA,
    ),
    "object by schema": (
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        BY_SCHEMA,
    ),
    "vLLM's schema": ({"structured_outputs": {"json": SCHEMA, "regex": None}}, BY_SCHEMA),
    "vLLM's text of a schema": ({"structured_outputs": {"json": TEXT}}, BY_SCHEMA),
    "vLLM's schema that allows nothing": (
        {"structured_outputs": {"json": False}},
        StructuredAnswer(StructuredKind.JSON_SCHEMA, "false"),
    ),
    "vLLM's object": ({"structured_outputs": {"json_object": True}}, OBJECT),
    "vLLM's nothing": (
        {"structured_outputs": {"json_object": False, "disable_any_whitespace": False}},
        None,
    ),
    "vLLM's regex": (
        {"structured_outputs": {"regex": "a+"}},
        StructuredAnswer(StructuredKind.REGEX, "a+"),
    ),
    "vLLM's choice": (
        {"structured_outputs": {"choice": ["a", "b"]}},
        StructuredAnswer(StructuredKind.CHOICE, choices=("a", "b")),
    ),
    "vLLM's grammar": (
        {"structured_outputs": {"grammar": LARK}},
        StructuredAnswer(StructuredKind.LARK, LARK),
    ),
    "older schema": ({"guided_json": SCHEMA}, BY_SCHEMA),
    "older regex": ({"guided_regex": "a+"}, StructuredAnswer(StructuredKind.REGEX, "a+")),
    "older choice": (
        {"guided_choice": ["a"]},
        StructuredAnswer(StructuredKind.CHOICE, choices=("a",)),
    ),
    "older grammar": ({"guided_grammar": LARK}, StructuredAnswer(StructuredKind.LARK, LARK)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", GIVEN)
def test_forms(name: str, kind: str) -> None:
    fields, expected = GIVEN[kind]
    (request,) = call(name, **fields).requests
    assert request.sampling.structured == expected
    assert not wrong(name, **fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"response_format": "json"}, "must be an object"),
        ({"response_format": {"type": "structural_tag"}}, "type must be one of"),
        ({"response_format": {"type": "json_schema"}}, "must be an object"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "needs a schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}},
            "a schema must be an object",
        ),
        ({"structured_outputs": {"json": "", "regex": "a", "choice": ["b"]}}, "only one of"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structural_tag is not supported"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "whitespace_pattern is not"),
        ({"structured_outputs": {"choice": []}}, "choice needs choices"),
        ({"structured_outputs": {"regex": 5}}, "must be a string"),
        ({"structured_outputs": {"regex": ""}}, "regex needs a text"),
        ({"structured_outputs": {"grammar": ""}}, "lark needs a text"),
        ({"structured_outputs": {"regex": 0}}, "must be a string"),
        ({"guided_choice": ["a", ""]}, "must not be empty"),
    ],
)
def test_forms_that_cannot_be_had_are_named(fields: dict[str, Any], text: str) -> None:
    found = wrong("chat", **fields)
    assert list(found) == list(fields)
    assert text in next(iter(found.values()))


def test_two_forms_are_one_too_many() -> None:
    both = {"response_format": {"type": "json_object"}, "guided_regex": "a"}
    assert wrong("chat", **both) == {"guided_regex": "response_format says it already"}
    none = {"response_format": {"type": "text"}, "guided_regex": "a"}
    assert not wrong("chat", **none)
