"""Messages of answers that no template reads: content alone, and calls that were asked for."""

from __future__ import annotations

import pytest

from lora_runtime import (
    ToolCall,
)
from lora_runtime.requests.messages.forced_calls import CallListParser, NamedCallParser
from lora_runtime.requests.messages.parsing import PlainParser

from .test_parsed_answers import handle_of, joined_of, shown


def test_content_alone() -> None:
    handle = handle_of(PlainParser(), ["<think>Ja</think> "])
    assert shown(handle.result().choices[0].message) == ("<think>Ja</think> ", "", [])


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (
            '[{"name": "f", "parameters": {"a": "}\\"]é"}}, {"name":"g","parameters":{}}]',
            "",
            [("f", '{"a": "}\\"]é"}'), ("g", "{}")],
        ),
        ('[{"name": "f", "parameters": {"a": [1, {', '{"name": "f", "parameters": {"a": [1, {', []),
        ('[{"name": "f"}]', '{"name": "f"}', []),
    ],
    ids=["two", "cut off", "none"],
)
def test_lists_of_calls(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    done = handle_of(CallListParser(2), [text, text]).result()
    assert [shown(choice.message) for choice in done.choices] == 2 * [(content, "", calls)]


def test_the_arguments_of_one_call() -> None:
    text = '{"city": "Köln"'
    events = list(handle_of(NamedCallParser("f", 1), [text]))
    message = joined_of(events)
    assert message.tool_calls == (ToolCall("f", text, message.tool_calls[0].id),)
    assert message.tool_calls[0].id.startswith("call_")
