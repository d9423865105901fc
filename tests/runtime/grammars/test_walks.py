"""Random walks through the grammars of schemas that chance makes: whatever comes out is valid."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLTokenizer

from lora_runtime import InvalidRequestError, StructuredAnswer
from lora_runtime.grammars.check import compiled
from lora_runtime.grammars.source import grammar_of

BYTES = LLTokenizer("byte")
NUMBERS = [0, 1, 2, -1, 3, 0.5, -2, 10, 1.5]
PATTERNS = [
    "a",
    "^a",
    "b$",
    "^[ab]+$",
    "^(a|bc)*$",
    "a.b",
    "^.{2}$",
    '^[^"]$',
    r"\d",
    r"^\w+\.\w+$",
]
VALUES: list[Any] = [1, 2, "a", "ab", "abc", None, True, 1.5, [1], {"a": 1}]
SIMPLE: dict[str, list[Any]] = {
    "type": ["integer", "number", "string", "boolean", "null", ["integer", "string"]],
    "minimum": NUMBERS,
    "exclusiveMinimum": NUMBERS,
    "maximum": NUMBERS,
    "exclusiveMaximum": NUMBERS,
    "multipleOf": [1, 2, 3, 0.5],
    "minLength": [0, 1, 2],
    "maxLength": [1, 3, 5],
    "pattern": PATTERNS,
    "const": VALUES,
    "enum": [VALUES[:4], VALUES[3:7], VALUES[6:]],
}
ENDS = {ord(char) for char in '"}]'}


def some(chance: random.Random, levels: int) -> dict[str, Any]:
    """A schema of so many levels."""

    def inner() -> Any:
        return some(chance, levels - 1)

    kind = chance.random() if levels else 0.0
    if kind < 0.4:
        return {key: chance.choice(SIMPLE[key]) for key in chance.sample(list(SIMPLE), 3)}
    if kind < 0.7:
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: inner() for name in chance.sample(["a", "b", "ab"], 2)},
            "required": chance.sample(["a", "b", "z"], chance.randint(0, 2)),
        }
        options = {
            "additionalProperties": chance.choice([False, True, inner()]),
            "patternProperties": {chance.choice(["^a", "b$", "^x"]): inner()},
            "maxProperties": chance.randint(1, 3),
            "minProperties": chance.randint(0, 2),
        }
        return schema | {key: options[key] for key in chance.sample(list(options), 1)}
    if kind < 0.8:
        return {
            "type": "array",
            "prefixItems": [inner() for _ in range(chance.randint(0, 2))],
            "items": chance.choice([False, inner()]),
            "minItems": chance.randint(0, 2),
            "maxItems": chance.randint(1, 3),
        }
    return {chance.choice(["anyOf", "allOf", "oneOf"]): [inner(), inner()]} | (
        some(chance, 0) if chance.random() < 0.4 else {}
    )


def walk(grammar: str, chance: random.Random) -> bytes | None:
    """A text that the grammar allows; None for one that finds no end."""
    matcher, text = compiled(BYTES, grammar), bytearray()
    while len(text) < 150:
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        assert not matcher.is_error()
        allowed = [t for t in np.unpackbits(mask, bitorder="little").nonzero()[0] if t < 256]
        if matcher.is_accepting() and (not allowed or chance.random() < 0.3):
            return bytes(text)
        assert allowed, (grammar, text)
        weights = [30 if t in ENDS else 8 if chr(t) in "ab012. " else 1 for t in allowed]
        (token,) = chance.choices(allowed, weights)
        assert matcher.consume_token(int(token))
        text.append(token)
    return None


@pytest.mark.parametrize("seed", range(20, 28))
def test_what_comes_out_is_valid(seed: int) -> None:
    chance, found = random.Random(seed), 0
    while found < 40:
        schema = some(chance, 3)
        try:
            grammar = grammar_of(StructuredAnswer("json_schema", json.dumps(schema)))
            compiled(BYTES, grammar)
        except (InvalidRequestError, ValueError):  # what cannot be had, or nothing can be
            continue
        for _ in range(3):
            if (text := walk(grammar, chance)) is not None:
                jsonschema.Draft202012Validator(schema).validate(json.loads(text))
                found += 1
