"""Characters that the prompt's ids begin and the answer's end: they are the answer's, whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lora_runtime import Engine, Request, SamplingParams
from lora_runtime.requests.text.detokenize import IncrementalDetokenizer

from ....support.models import make_tokenizer
from ..test_streaming import Parrot
from .test_text_properties import PIECES, TOKENIZERS

SPACE_A, A = 3 + 256 + PIECES.index("▁a"), 3 + 256 + PIECES.index("a")


def ids_of(kind: str, data: bytes) -> list[int]:
    """Tokens of bytes, each its own."""
    if kind == "pieces":
        return [3 + byte for byte in data]
    alphabet = {c: i for i, c in enumerate(TOKENIZERS["bytes"].convert_ids_to_tokens(range(256)))}
    return [alphabet[bytes_to_unicode()[byte]] for byte in data]


def answer(kind: str, prompt: list[int], ids: list[int]) -> str:
    detokenizer = IncrementalDetokenizer(TOKENIZERS[kind], prompt)
    return "".join([detokenizer.push(t) for t in ids] + [detokenizer.flush()])


BEFORE = [b"", b"so: ", b"\xff", b"so: \xff", "so: 日本語日本".encode(), b"\xf0\x9f", b"\x80" * 70]
"""What comes before the character: nothing, a text, no UTF-8, characters of several bytes."""


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("character", ["é", "日", "😀"])
def test_a_begun_character_is_the_answers(kind: str, before: bytes, character: str) -> None:
    data = character.encode()
    for cut in range(len(data)):
        prompt, rest = ids_of(kind, before + data[:cut]), ids_of(kind, data[cut:])
        assert answer(kind, prompt, rest) == character
        assert answer(kind, prompt, [*rest, *ids_of(kind, b" ok")]) == f"{character} ok"
        several = ids_of(kind, "é 日本".encode())
        assert answer(kind, prompt, [*rest, *several]) == f"{character}é 日本"
        for special in (1, 2) if kind == "pieces" else (256, 257):
            assert answer(kind, prompt, [special, *rest]) == character


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    "end", [b"\xff", b"\xf0\x9f", b"a\xe6\x97", b"\x80\x80", "a\ufffd".encode()]
)
def test_what_the_prompt_leaves_broken_is_not_the_answers(kind: str, end: bytes) -> None:
    for text in ("ok", "é", "😀😀", "\n"):
        assert answer(kind, ids_of(kind, end), ids_of(kind, text.encode())) == text
        assert answer(kind, ids_of(kind, b"so: " + end), ids_of(kind, text.encode())) == text


def test_spaces_behind_bytes_are_kept() -> None:
    """The first token of a text loses its space, and these are not the first."""
    for before in ("é".encode(), "日本語日本".encode(), b"\xff", b"\xf0\x9f"):
        prompt = [A, *ids_of("pieces", before)]
        assert answer("pieces", prompt, [SPACE_A, A]) == " aa"


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=20),
    st.data(),
)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_no_character_is_lost_wherever_the_prompt_ends(
    kind: str, text: str, data: st.DataObject
) -> None:
    whole = text.encode()
    cut = data.draw(st.integers(0, len(whole)))
    known = whole[:cut].decode(errors="ignore")
    prompt, rest = ids_of(kind, b"x" + whole[:cut]), ids_of(kind, whole[cut:])
    assert answer(kind, prompt, rest) == text[len(known) :]


def test_a_token_that_is_only_named_like_a_byte() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<0x41>"])
    named: Any = tokenizer.convert_tokens_to_ids("<0x41>")
    detokenizer = IncrementalDetokenizer(tokenizer, [named])
    assert detokenizer.push(named) == "<0x41>"


def test_an_answer_in_the_engine(engine: Engine) -> None:
    data = "so: 😀".encode()
    prompt = tuple(ids_of("bytes", data[:-2]))
    said = Parrot(engine, "")
    said.ids = ids_of("bytes", data[-2:] + b" ok")
    sampling = SamplingParams(max_new_tokens=len(said.ids), ignore_eos=True)
    request = Request(token_ids=prompt, sampling=sampling)
    assert engine.generate(request).text == "😀 ok"
    assert "".join(e.text for e in engine.stream(request)) == "😀 ok"
