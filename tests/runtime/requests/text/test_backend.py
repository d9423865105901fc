"""Short texts by the tokenizer's backend are what the tokenizer makes of them, or nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, TokenizersBackend

from lora_runtime.requests.text.backend import decode, encode_short


@pytest.fixture
def tokenizer(tiny_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", ["hello", "", " ä€\U0001f600 ", "<s>a</s>"])
def test_ids_and_texts_are_the_tokenizers_own(tokenizer: Any, text: str, special: bool) -> None:
    ids = tokenizer(text, add_special_tokens=special)["input_ids"]
    assert encode_short(tokenizer, text, special) == ids
    for skip in (True, False):
        options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": False}
        assert decode(tokenizer, ids, skip) == tokenizer.decode(ids, **options)


def test_what_is_set_on_the_tokenizer_is_left_to_it(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.enable_truncation(2)
    assert encode_short(tokenizer, "hello", True) is None
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.split_special_tokens = not tokenizer.split_special_tokens
    assert encode_short(tokenizer, "hello", True) is None


def test_a_kind_of_its_own_is_asked_itself(tokenizer: Any) -> None:
    class Loud(TokenizersBackend):
        def _encode_plus(self, *args: Any, **options: Any) -> Any:
            raise AssertionError("not called here")

        def _decode(self, *args: Any, **options: Any) -> str:
            return super()._decode(*args, **options).upper()

    tokenizer.__class__ = Loud
    assert encode_short(tokenizer, "hello", True) is None
    assert decode(tokenizer, tokenizer.backend_tokenizer.encode("hello").ids, True) == "HELLO"
