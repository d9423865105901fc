"""Structured answers over gRPC and by the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from loramux.v1 import inference_pb2

from ..support.servers import Harness, make_settings, refused, running
from .test_cli import run

ASK: dict[str, Any] = {"prompt": "hello", "max_new_tokens": 60}
FORMS: dict[str, Any] = {
    "json_schema": '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],'
    ' "additionalProperties": false}',
    "regex": "[0-9]{3}",
    "choice": {"texts": ["one", "two"]},
    "lark": 'start: "<" /[a-c]{2}/ ">"',
}
TEXTS = {
    "json_schema": {'{"a":true}', '{"a":false}', '{"a": true}', '{"a": false}'},
    "regex": {f"{i:03}" for i in range(1000)},
    "choice": {"one", "two"},
    "lark": {f"<{a}{b}>" for a in "abc" for b in "abc"},
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tiny_base: Path) -> AsyncIterator[Harness]:
    """One for all: it keeps its programs for grammars, which take a second to begin."""
    async with running(make_settings(tiny_base)) as harness:
        yield harness


@pytest.mark.parametrize("kind", FORMS)
async def test_each_form(served: Harness, kind: str) -> None:
    (choice,) = (await served.generate(**ASK, structured={kind: FORMS[kind]})).choices
    assert choice.text in TEXTS[kind]
    assert choice.finish_reason == inference_pb2.FINISH_REASON_EOS
    events = [e async for e in served.stream(**ASK, structured={kind: FORMS[kind]})]
    assert "".join(e.text for e in events) == choice.text


async def test_any_json_object(served: Harness) -> None:
    bias = {ord(char) - 33: 100.0 for char in '"}'}
    fields = {**ASK, "logit_bias": bias, "structured": {"json_object": {}}}
    assert json.loads((await served.generate(**fields)).text) == {}


async def test_what_is_wrong_is_named(served: Harness) -> None:
    for form, why in (
        ({}, "no form"),
        ({"json_schema": '{"not": {}}'}, "not"),
        ({"json_schema": "{"}, "no JSON Schema"),
        ({"regex": ""}, "needs a text"),
        ({"choice": {}}, "needs choices"),
        ({"lark": "start: x"}, "unknown name"),
        ({"regex": "a" * (1 << 16) + "b"}, "at most 65536 bytes"),
    ):
        error = await refused(
            served.generate(**ASK, structured=form), grpc.StatusCode.INVALID_ARGUMENT
        )
        assert f"structured: {why}" in error.details() or why in error.details()
        assert error.details().startswith("structured: ")


async def test_the_command_line(served: Harness, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(FORMS["json_schema"])
    grammar = tmp_path / "grammar.lark"
    grammar.write_text(FORMS["lark"])
    options = {
        "json_schema": ["--json-schema", f"@{schema}"],
        "regex": ["--regex", FORMS["regex"]],
        "choice": ["--choice", "one", "--choice", "two"],
        "lark": ["--lark", f"@{grammar}"],
    }
    for kind, option in options.items():
        result = await run(served, "generate", "hi", "--max-new-tokens", "60", *option)
        assert result.stdout.removesuffix("\n") in TEXTS[kind]
    begun = await run(served, "generate", "hi", "--max-new-tokens", "2", "--json-object")
    assert begun.stdout.startswith("{")
    for wrong in (["--regex", "a", "--choice", "b"], ["--lark", "@/nowhere/to/be/found"]):
        await run(served, "generate", "hi", *wrong, code=2)
