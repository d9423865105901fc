"""Single tokens as bytes: put together they are the text, and a part of a character stays one."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from lora_runtime import Engine, Request
from lora_runtime.requests.text import token_text
from lora_runtime.requests.text.token_text import TokenBytes

from ....support.tokenizers import BASES

TEXT = "He ll  Hello 1,2. "
HARD = "naïve 日本 \ufffd <0x41> 🦙"


@pytest.mark.parametrize("kind", BASES)
def test_the_bytes_of_tokens_are_the_text(kind: str) -> None:
    tokenizer = BASES[kind]()
    text = TEXT + (HARD if kind != "unigram" else "")
    if kind == "sentence piece":
        text = text.replace("<0x41>", "")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    each = [TokenBytes(tokenizer)(token) for token in ids]
    whole = b"".join(each).decode().removeprefix("" if kind == "byte level" else " ")
    expected = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert whole.strip(" ") == str(expected).strip(" ")
    if kind != "unigram":
        assert b"\xf0" in each
        assert b"\xa6" in each


@pytest.mark.parametrize("kind", BASES)
def test_special_tokens_have_their_names_and_unknown_ids_nothing(kind: str) -> None:
    tokenizer = BASES[kind]()
    of = TokenBytes(tokenizer)
    assert [of(0), of(1), of(5)] == [b"<s>", b"</s>", b"<tool>"]
    assert of(len(tokenizer)) == of(10**6) == b""


def test_what_is_kept_is_bounded_and_ends_with_the_tokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_text, "_KEPT", 10)
    before = len(token_text._KNOWN)
    tokenizer: Any = BASES["byte level"]()
    of = TokenBytes(tokenizer)
    assert [of(i) for i in range(50)] == [TokenBytes(tokenizer)(i) for i in range(50)]
    assert 0 < len(token_text._KNOWN[tokenizer]) <= 10
    del of, tokenizer
    gc.collect()
    assert len(token_text._KNOWN) <= before


def test_a_handle_has_the_bytes_of_its_own_tokens(make_engine: Callable[..., Engine]) -> None:
    handle = make_engine().submit(Request(prompt="hello"))
    tokens = [token for event in handle for token in event.token_ids]
    assert all(isinstance(handle.token_bytes(token), bytes) for token in tokens)
    assert b"hello" in b"".join(map(handle.token_bytes, handle.prompt_token_ids))
