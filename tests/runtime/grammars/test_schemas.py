"""Answers held to JSON Schemas of the kinds that JSONSchemaBench has: functions' calls, configuration
files, Kubernetes' objects, events, articles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer

from lora_runtime import Engine, FinishReason, Request, SamplingParams, StructuredAnswer
from lora_runtime.grammars.source import grammar_of

DATA = Path(__file__).parents[2] / "data" / "json_schemas.jsonl"
DRAFT_4, DRAFT_7 = (f"http://json-schema.org/draft-0{number}/schema#" for number in (4, 7))
BIAS = tuple((ord(char) - 33, 12.0) for char in '"}],')
"""A random model would go on with a string for ever. Token ids of make_tokenizer."""


def test_every_finished_answer_is_valid(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_running=64, kv_cache_bytes=64 << 20)
    schemas = [json.loads(line)["schema"] for line in DATA.read_text().splitlines()]
    assert len(schemas) == 200
    handles = [
        engine.submit(
            Request(
                prompt="x",
                sampling=SamplingParams(
                    max_new_tokens=220,
                    temperature=1.5,
                    seed=index,
                    logit_bias=BIAS,
                    structured=StructuredAnswer("json_schema", json.dumps(schema)),
                ),
            )
        )
        for index, schema in enumerate(schemas)
    ]
    finished = 0
    for schema, handle in zip(schemas, handles, strict=True):
        (choice,) = handle.result().choices
        if choice.finish_reason is FinishReason.LENGTH:
            continue
        assert choice.finish_reason is FinishReason.EOS
        validator = jsonschema.validators.validator_for(schema)
        validator(schema, format_checker=validator.FORMAT_CHECKER).validate(json.loads(choice.text))
        finished += 1
    assert finished >= 190


@pytest.mark.parametrize(
    ("schema", "why"),
    {
        "unknown keyword of JSON Schema": ({"not": {"type": "string"}}, "not"),
        "unique items": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        "conditions": ({"if": {}, "then": {}}, "if"),
        "overlapping": ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        "format": ({"type": "string", "format": "color"}, "color"),
        "draft 3": ({"properties": {"a": {"divisibleBy": 2}}}, "divisibleBy"),
        "required of draft 3": ({"properties": {"a": {"required": True}}}, "required"),
        "options": ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
        "another document": ({"$ref": "https://example.com/a.json"}, "https://example.com/a.json"),
        "a file": ({"$ref": "file:///etc/passwd"}, "file:///etc/passwd"),
        "another schema language": ({"$schema": "https://example.com/s"}, "https://example.com/s"),
        "of a later draft": (
            {"$schema": DRAFT_7, "dependentRequired": {"a": ["b"]}},
            "dependentRequ",
        ),
        "not yet in draft 4": ({"$schema": DRAFT_4, "const": 1}, "const"),
        "names that may come twice": ({"minProperties": 2}, "minProperties"),
        "large constant": ({"const": {"a": [2**53 + 1]}}, "const"),
        "large value": ({"enum": [1, 1e30]}, "enum"),
        "large bound": ({"type": "integer", "minimum": 2**53 + 1}, "minimum"),
        "larger bound": ({"type": "integer", "minimum": 10**20}, "minimum"),
        "bound of many digits": ({"type": "integer", "maximum": 10**400}, "maximum"),
        "narrow numbers": ({"exclusiveMinimum": 0, "maximum": 0.5}, "behind 0"),
        "narrow numbers below": ({"exclusiveMaximum": -2, "minimum": -2.5}, "behind -2"),
        "narrow numbers of draft 4": (
            {"minimum": 1, "exclusiveMinimum": True, "maximum": 1.5},
            "behind 1",
        ),
        "narrow numbers of two schemas": (
            {"allOf": [{"type": "number", "exclusiveMinimum": 1}, {"maximum": 1.5}]},
            "behind 1",
        ),
        "narrow numbers of one and another": (
            {
                "properties": {"a/b": {"$ref": "#/items/0", "maximum": 1.5}},
                "items": [{"$ref": "#/$defs/%61"}],
                "$defs": {"a": {"type": "number", "exclusiveMinimum": 1}},
            },
            "behind 1",
        ),
        "narrow numbers of a choice": (
            {"type": "number", "exclusiveMinimum": 1, "anyOf": [{"minimum": 3}, {"maximum": 1.5}]},
            "behind 1",
        ),
        "far too much": ({"$ref": "#/default", "default": {"minimum": 10**400}}, "no JSON Schema"),
        "nothing": ({"type": "integer", "minimum": 2, "maximum": 1}, "minimum"),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_supported_is_named(
    compile_it: Callable[[StructuredAnswer], str], schema: object, why: str
) -> None:
    assert why in compile_it(StructuredAnswer("json_schema", json.dumps(schema)))


@pytest.mark.parametrize(
    "schema",
    {
        "what has no effect": {"type": "array", "uniqueItems": False},
        "items of an array": {"items": [{"type": "null"}], "additionalItems": False},
        "bound of 64 bits": {"type": "integer", "maximum": 2**63 - 1},
        "bound of 64 bits, unsigned": {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        "positive numbers": {"type": "number", "exclusiveMinimum": 0},
        "part of one": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "one integer": {"type": "integer", "exclusiveMinimum": 0, "maximum": 1.5},
        "narrow numbers of two values": {
            "properties": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "number", "maximum": 0.5}},
            "$defs": {"b": {"type": "number", "exclusiveMinimum": 0}},
        },
        "choices of numbers": {
            "anyOf": [{"type": "number", "exclusiveMinimum": 1}, {"type": "number", "maximum": 1.5}]
        },
        "many schemas": {"allOf": [{"title": ""}] * 65},
        "itself": {"properties": {"a": {"$ref": "#"}}, "allOf": [{"type": "object"}]},
        "some names": {"required": ["a", "b"], "minProperties": 3},
    }.values(),
    ids=str,
)
def test_what_is_supported(compile_it: Callable[[StructuredAnswer], str], schema: object) -> None:
    assert not compile_it(StructuredAnswer("json_schema", json.dumps(schema)))


def test_first_items_beside_a_keyword_of_other_drafts() -> None:
    schema = {"type": "array", "prefixItems": [{"type": "integer"}], "additionalItems": False}
    grammar = grammar_of(StructuredAnswer("json_schema", json.dumps(schema)))
    matcher = LLMatcher(LLTokenizer("byte"), grammar)
    assert matcher.try_consume_tokens(list(b"[n")) == 1
    assert matcher.try_consume_tokens(list(b"1,null]")) == 7


def test_properties_may_be_called_as_keywords(
    compile_it: Callable[[StructuredAnswer], str],
) -> None:
    names = ("extends", "disallow", "x-guidance", "required", "not", "minimum", "const")
    schema = {"properties": {name: {"type": "integer"} for name in names}, "enum": [{"extends": 1}]}
    assert not compile_it(StructuredAnswer("json_schema", json.dumps(schema)))


@pytest.mark.parametrize(
    ("text", "why"),
    {
        "no JSON": ("{", "no JSON Schema"),
        "no object": ("[]", "no object"),
        "no number": ('{"minimum": NaN}', "NaN"),
        "deep": ('{"a":' * 5000 + "1" + "}" * 5000, "too many levels"),
        "deep schemas": ('{"items":' * 300 + "{}" + "}" * 300, "too many levels"),
        "long number": ('{"minimum": 1' + "0" * 5000 + "}", "no JSON Schema"),
        "false": ("false", "no object"),
    }.values(),
    ids=lambda value: value if len(value) < 20 else "text",
)
def test_what_is_no_schema(
    compile_it: Callable[[StructuredAnswer], str], text: str, why: str
) -> None:
    assert why in compile_it(StructuredAnswer("json_schema", text))
