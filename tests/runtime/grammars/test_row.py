"""Rows of grammars: what may come next."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher

from lora_runtime import StructuredAnswer
from lora_runtime.grammars import row as row_module
from lora_runtime.grammars.check import compiled
from lora_runtime.grammars.row import RowGrammar
from lora_runtime.grammars.source import grammar_of
from lora_runtime.grammars.tokens import TokenTables

from ...support.models import EOS, VOCAB

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


def row_of(tokenizer: Any, answer: StructuredAnswer, **options: Any) -> RowGrammar:
    table = TokenTables([EOS]).of(tokenizer).tokenizer
    ends = {EOS, 1000}  # the other one is of an adapter whose table is another
    text = grammar_of(answer)
    return RowGrammar(lambda: compiled(table, text), table.vocab_size, ends, **options)


def allowed(row: RowGrammar) -> str:
    """The characters that may come, and . for the end."""
    row.compute()
    assert row.is_ready
    assert not row.error
    ids = np.unpackbits(row.mask.view(np.uint8), bitorder="little").nonzero()[0].tolist()
    assert all(row.allows(token) for token in ids)
    assert not row.allows(VOCAB + 1000)
    return "".join(sorted("." if token == EOS else chr(token + 33) for token in ids))


@pytest.mark.parametrize("seconds", [0.0, 1.0], ids=["quick", "slow"])
def test_tokens_of_a_text(tokenizer: Any, seconds: float) -> None:
    answer = StructuredAnswer("json_schema", json.dumps(SCHEMA))
    row = row_of(tokenizer, answer, seconds=seconds)
    assert row.is_slow == bool(seconds)
    seen = [allowed(row)]
    for char in '{"a":-17}':
        assert row.allows(ord(char) - 33)
        row.advance(ord(char) - 33)
        assert not row.is_ready
        seen.append(allowed(row))
    assert seen[:4] == ["{", '"}', "a", '"']
    assert seen[6] == "0123456789"
    assert seen[-1] == "."
    assert row.only_ends


def test_the_end_that_is_ignored(tokenizer: Any) -> None:
    answer = StructuredAnswer("regex", "a{1,2}")
    plain, ignoring = row_of(tokenizer, answer), row_of(tokenizer, answer, ignore_eos=True)
    for row in (plain, ignoring):
        assert allowed(row) == "a"
        row.advance(64)
    assert (allowed(plain), allowed(ignoring)) == (".a", "a")
    assert not plain.only_ends
    for row in (plain, ignoring):
        row.advance(64)
        assert allowed(row) == "."
        assert row.only_ends


def test_a_token_that_may_not_come(tokenizer: Any) -> None:
    for seconds in (0.0, 1.0):
        row = row_of(tokenizer, StructuredAnswer("regex", "ab"), seconds=seconds)
        allowed(row)
        row.advance(65)
        row.compute()
        assert row.is_ready
        assert "satisfy" in row.error


def test_what_is_slow_to_make_may_be_quick_to_follow(tokenizer: Any) -> None:
    row = row_of(tokenizer, StructuredAnswer("regex", "ab"), seconds=0.05)
    assert row.is_slow
    allowed(row)
    assert not row.is_slow


def test_what_cannot_be_made(tokenizer: Any) -> None:
    row = row_of(tokenizer, StructuredAnswer("lark", "start: other"))
    row.compute()
    assert row.is_ready
    assert "other" in row.error


@pytest.mark.parametrize(("long_s", "is_beside"), [(60.0, False), (-1.0, True)])
def test_what_takes_long_keeps_no_lock(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, long_s: float, is_beside: bool
) -> None:
    monkeypatch.setattr(row_module, "_LONG_S", long_s)
    beside, consume = list[int](), row_module._consume_beside

    def consume_beside(matcher: LLMatcher, token: int) -> bool:
        beside.append(token)
        return consume(matcher, token)

    monkeypatch.setattr(row_module, "_consume_beside", consume_beside)
    row = row_of(tokenizer, StructuredAnswer("regex", "aaa"))
    allowed(row)
    row.advance(64)
    row.compute()
    assert len(beside) == is_beside


@pytest.mark.parametrize("text", ["", "ab"], ids=["at its beginning", "at its end"])
def test_a_row_is_freed_by_its_matcher_s_failure(tokenizer: Any, text: str) -> None:
    """Which needs no lock of the interpreter's: the end of a matcher does."""
    row = row_of(tokenizer, StructuredAnswer("regex", "ab"))
    row.compute()
    for char in text:
        row.advance(ord(char) - 33)
        row.compute()
    assert not row.error
    matcher = row._matcher
    assert matcher is not None
    row.release()
    assert row._matcher is None
    assert matcher.is_error()
    row.release()
