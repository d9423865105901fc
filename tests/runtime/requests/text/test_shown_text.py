"""Text of an answer as its parser sees it."""

from __future__ import annotations

from typing import Any

from lora_runtime import (
    FinishReason,
    SamplingParams,
    TokenEvent,
)
from lora_runtime.requests.text.shown_text import ShownText

from ....support.models import EOS, make_tokenizer
from ..messages.test_parsed_answers import ids_of


def test_special_tokens_are_seen() -> None:
    """Answers hide them, and what they delimit is told apart by them."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]"]})
    token: Any = tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
    text = ShownText(tokenizer, (), SamplingParams(), frozenset({EOS}))
    assert text.push(TokenEvent(0, "", (token,))) == "[TOOL_CALLS]"
    assert text.push(TokenEvent(0, "", (EOS,), finish_reason=FinishReason.EOS)) == ""
    ends = ShownText(tokenizer, (), SamplingParams(stop=("bc",)), frozenset({EOS}))
    a, b, c = ids_of("abc")
    assert [ends.push(TokenEvent(0, "", (token,))) for token in (a, b)] == ["a", ""]
    assert ends.push(TokenEvent(0, "", (c,), finish_reason=FinishReason.STOP)) == ""
    late = ShownText(tokenizer, (), SamplingParams(stop=("bc",)), frozenset({EOS}))
    assert late.push(TokenEvent(0, "", (b,), finish_reason=FinishReason.LENGTH)) == "b"
    early = ShownText(tokenizer, (), SamplingParams(stop=("ab",), min_tokens=2), frozenset({EOS}))
    texts = [early.push(TokenEvent(0, "", (token,))) for token in (a, b, c)]
    assert "".join(texts) == "abc"
    ignored = ShownText(tokenizer, (), SamplingParams(), frozenset())
    assert ignored.push(TokenEvent(0, "", (EOS,), finish_reason=FinishReason.EOS)) == ""
