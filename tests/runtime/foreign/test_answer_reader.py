"""Messages in answers: as transformers parses them, however the text comes in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers.utils.chat_parsing import parse_response

from lora_runtime.foreign.answer_reader import AnswerReader

from ...support.response_templates import KINDS, TOOLS, Kind

Message = tuple[str, str, list[tuple[str, str]]]


def read(kind: Kind, pieces: list[str], takes_calls: bool = True) -> Message:
    reader = AnswerReader(kind.template, kind.prompt, TOOLS, takes_calls)
    content = reasoning = ""
    calls: list[tuple[str, str]] = []
    for i, piece in enumerate(pieces):
        found = reader.read(piece, i == len(pieces) - 1)
        content += found["content"]
        reasoning += found["reasoning"]
        assert all(own.startswith("call_") for own, _, _ in found["calls"])
        calls += [(name, arguments) for _, name, arguments in found["calls"]]
        assert 0 <= found["settled"] <= sum(map(len, pieces[: i + 1]))
    return content, reasoning, calls


@pytest.mark.parametrize("name", KINDS)
def test_whole_and_at_every_cut(name: str) -> None:
    kind = KINDS[name]
    text, expected = kind.answer, (kind.content, kind.reasoning, list(kind.calls))
    assert read(kind, [text]) == expected
    assert read(kind, list(text)) == expected
    for i in range(len(text)):
        assert read(kind, [text[:i], text[i:]]) == expected


@pytest.mark.parametrize(
    "name", ["hermes", "hermes, begun", "qwen3.5", "llama", "mistral", "no call"]
)
def test_as_transformers_reads_it(name: str) -> None:
    kind = KINDS[name]
    theirs = parse_response(kind.answer, kind.template, prefix=kind.prompt, tools=TOOLS)  # type: ignore[arg-type]
    calls = theirs.get("tool_calls", [])
    if calls and isinstance(calls[0], list):
        calls = calls[0]
    functions = [call["function"] for call in calls]
    assert read(kind, [kind.answer]) == (
        theirs.get("content", ""),
        theirs.get("reasoning_content", ""),
        [(f["name"], json.dumps(f["arguments"], ensure_ascii=False)) for f in functions],
    )


def test_calls_that_nobody_takes_are_text() -> None:
    kind = KINDS["hermes"]
    content, reasoning, calls = read(kind, [kind.answer], takes_calls=False)
    assert (reasoning, calls) == (kind.reasoning, [])
    assert content == kind.answer.partition("</think>")[2].strip()


def test_ids_of_the_model_s_own() -> None:
    kind = KINDS["mistral"]
    template: dict[str, Any] = {
        **kind.template,
        "fields": {"tool_calls": {"open": "[TOOL_CALLS]", "content": "json"}, "content": {}},
    }
    reader = AnswerReader(template, kind.prompt, [], True)
    found = reader.read('[TOOL_CALLS][{"name": "f", "id": "D681PevKs", "arguments": {}}]', True)
    assert found["calls"] == [["D681PevKs", "f", "{}"]]


@pytest.mark.parametrize("arguments", ['{"a": NaN}', '{"a": ' + "[" * 5000 + "]" * 5000 + "}"])
def test_arguments_that_are_no_json(arguments: str) -> None:
    kind = KINDS["hermes"]
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    assert read(kind, [text]) == (text, "", [])


def test_halves_of_characters_stay_escapes() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>'
    assert read(KINDS["hermes"], [text])[2] == [("f", '{"a": "\\ud800"}')]
    text = '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'
    assert read(KINDS["hermes"], [text]) == (text, "", [])


def test_a_begun_content_goes_on() -> None:
    """Only what is new is the answer's."""
    kind = KINDS["hermes"]
    begun = Kind(kind.template, kind.prompt + "It is ", "")
    assert read(begun, [" 5"])[0] == " 5"
    assert read(begun, ["5 "])[0] == "5"
