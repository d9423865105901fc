"""Limits of a request's lists and texts: what is over is neither looked at nor tokenized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lora_runtime import (
    ChatMessage,
    Engine,
    InvalidRequestError,
    Request,
    RequestLimits,
    SamplingParams,
    WeightedAdapter,
)
from lora_runtime.requests.prompts import lengths
from lora_runtime.requests.prompts.lengths import LEAST_LONGEST, TextLimit, longest_token

OVER: dict[str, dict[str, Any]] = {
    "messages": {"messages": (ChatMessage("user", ""),) * 1025},
    "adapters": {"prompt": "x", "adapters": (WeightedAdapter("a"),) * 9},
    "stop": {"prompt": "x", "sampling": SamplingParams(stop=("x",) * 17)},
    "stop_token_ids": {"prompt": "x", "sampling": SamplingParams(stop_token_ids=(1,) * 257)},
    "logit_bias": {"prompt": "x", "sampling": SamplingParams(logit_bias=((1, 1.0),) * 1025)},
}


class Unread(tuple[Any, ...]):
    """A tuple that fails the test when it is looked at."""

    def __iter__(self) -> Any:
        raise AssertionError("it was looked at")


@pytest.mark.parametrize("field", OVER)
def test_a_list_over_its_limit_is_refused_by_its_count(field: str) -> None:
    with pytest.raises(InvalidRequestError, match="at most") as caught:
        Request(**OVER[field]).validate()
    assert [v.field for v in caught.value.violations] == [field]


def test_what_is_over_is_not_looked_at() -> None:
    params = SamplingParams(stop_token_ids=Unread((1,) * 300))
    with pytest.raises(InvalidRequestError, match="256 ids"):
        Request(prompt="x", sampling=params).validate()


def test_limits_are_settings(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_messages=2, max_stop_token_ids=3, max_composed_adapters=9)
    expected = RequestLimits(
        messages=2, adapters=9, stop_token_ids=3, token_ids=engine.max_context - 1
    )
    assert engine.request_limits == expected
    for field in ("messages", "stop_token_ids"):
        with pytest.raises(InvalidRequestError, match=rf"{field}: at most [23] "):
            engine.submit(Request(**OVER[field]))
    with pytest.raises(InvalidRequestError, match="named twice"):  # their number is within
        engine.submit(Request(**OVER["adapters"]))


def test_a_context_of_ids_is_served_and_no_more(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_context=64)
    one = SamplingParams(max_new_tokens=5, ignore_eos=True)
    done = engine.generate(Request(token_ids=(5,) * 63, sampling=one))
    assert len(done.choices[0].token_ids) == 1
    with pytest.raises(InvalidRequestError, match="token_ids: at most 63 tokens"):
        engine.submit(Request(token_ids=Unread((5,) * 64), sampling=one))


class Counting:
    """A tokenizer of characters that counts what went through it."""

    def __init__(self, length: int = 1) -> None:
        self.length, self.characters = length, 0

    def __call__(self, text: str) -> list[int]:
        self.characters += len(text)
        return [7] * -(-len(text) // self.length)


def test_a_text_that_no_context_holds_is_not_tokenized() -> None:
    ids = Counting()
    with pytest.raises(InvalidRequestError, match="prompt: has 6401 characters"):
        TextLimit(100).tokenize("x" * 6401, "prompt", ids)
    assert ids.characters == 0


def test_a_long_text_is_tokenized_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "_PIECE", 500)
    ids = Counting()
    with pytest.raises(InvalidRequestError, match="prompt: has over 100 tokens"):
        TextLimit(100).tokenize("x" * 6000, "prompt", ids)
    assert ids.characters <= 2048


def test_bytes_tell_what_is_long() -> None:
    """A tokenizer may make a token of each byte: 501 of these."""
    ids = Counting()
    with pytest.raises(InvalidRequestError, match="prompt: has over 100 tokens"):
        TextLimit(100).tokenize("\u6f22" * 300, "prompt", ids)
    assert ids.characters == 300  # once, not as a whole again


def test_a_long_text_that_fits_is_tokenized_as_a_whole() -> None:
    ids = Counting(64)
    assert TextLimit(100).tokenize("x" * 6336, "prompt", ids) == [7] * 99
    assert Counting(80)("x" * 7920) == TextLimit(100, 80).tokenize("x" * 7920, "p", Counting(80))


def test_messages_count_with_all_their_texts() -> None:
    limit = TextLimit(10)
    limit.check_messages([ChatMessage("user", "x" * 60)] * 10)
    with pytest.raises(InvalidRequestError, match="messages: has 704 characters"):
        limit.check_messages([ChatMessage("user", "x" * 60)] * 11)


def test_long_messages_are_not_rendered(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("it was rendered")

    monkeypatch.setattr(engine.base.tokenizer, "apply_chat_template", fails)
    text = "x" * (engine.max_context * LEAST_LONGEST + 1)
    with pytest.raises(InvalidRequestError, match="messages: has"):
        engine.submit(Request(messages=(ChatMessage("user", text),)))


def test_the_longest_token_counts(engine: Engine) -> None:
    vocabulary = engine.base.tokenizer.get_vocab()
    assert longest_token(engine.base.tokenizer) == max(map(len, vocabulary))
