"""Answers held to JSON Schemas of the kinds that JSONSchemaBench has: functions' calls, configuration
files, Kubernetes' objects, events, articles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from lora_runtime import Engine, FinishReason, Request, SamplingParams, StructuredAnswer

DATA = Path(__file__).parents[2] / "data" / "json_schemas.jsonl"
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
        "nothing": ({"type": "integer", "minimum": 2, "maximum": 1}, "minimum"),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_supported_is_named(
    compile_it: Callable[[StructuredAnswer], str], schema: object, why: str
) -> None:
    assert why in compile_it(StructuredAnswer("json_schema", json.dumps(schema)))


def test_properties_may_be_called_as_keywords(
    compile_it: Callable[[StructuredAnswer], str],
) -> None:
    names = ("extends", "disallow", "x-guidance", "required", "not")
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
