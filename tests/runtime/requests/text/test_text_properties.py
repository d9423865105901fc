"""Property tests of detokenisation and stop strings: any text, cut anywhere."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lora_runtime.requests.text.detokenize import IncrementalDetokenizer
from lora_runtime.requests.text.stop_matcher import StopMatcher
from lora_runtime.requests.text.stop_strings import StopStrings

from ....support.models import VOCAB, make_tokenizer

TOKENIZER = make_tokenizer()
PIECES = ["▁", "▁a", "a", "b", "▁b", "▁▁", "é", "▁日"]
any_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=60
)
few_letters = st.text("ab", max_size=30)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)
letters = st.text("abcé\0", max_size=40)
many_stops = st.lists(st.text("abcé\0", min_size=1, max_size=7), min_size=1, max_size=16)


def make_pieces() -> PreTrainedTokenizerFast:
    """As SentencePiece has them: spaces in the tokens, the first one left out, bytes for the rest."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *PIECES]
    vocabulary = {name: i for i, name in enumerate(names)}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


TOKENIZERS: dict[str, Any] = {"bytes": TOKENIZER, "pieces": make_pieces()}
WITHOUT_TEXT = {"bytes": [256, 257, VOCAB + 7], "pieces": [0, 1, 2, 5000]}
"""Special tokens, and ids that a tokenizer does not know."""


@given(any_text, any_text)
def test_detokenizer_gives_the_text(context: str, text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    detokenizer = IncrementalDetokenizer(TOKENIZER, TOKENIZER(context)["input_ids"])
    pieces = [detokenizer.push(t) for t in ids] + [detokenizer.flush()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in p for p in pieces)


@given(st.lists(st.integers(0, 257), max_size=40))
def test_detokenizer_survives_any_tokens(ids: list[int]) -> None:
    detokenizer = IncrementalDetokenizer(TOKENIZER)
    text = "".join([detokenizer.push(t) for t in ids] + [detokenizer.flush()])
    # Bytes that are no UTF-8 may become U+FFFD; whole ASCII characters are never lost.
    ascii_only = [c for c in TOKENIZER.decode(ids, skip_special_tokens=True) if c.isascii()]
    assert [c for c in text if c.isascii()] == ascii_only


def _texts(kind: str) -> list[list[int]]:
    """Ids of single pieces, and of characters that take several."""
    if kind == "bytes":
        return [TOKENIZER(text)["input_ids"] for text in ("a", " ", "é", "日", "🎉", "\n")]
    first = 3 + 256
    whole = [[first + i] for i in range(len(PIECES))]
    return [*whole, *([3 + byte for byte in text.encode()] for text in ("ü", "🎉"))]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_tokens_without_text_change_nothing(kind: str, data: st.DataObject) -> None:
    """However many there are, wherever they stand: before a space, and inside a character."""
    tokenizer: Any = TOKENIZERS[kind]
    without = st.lists(st.sampled_from(WITHOUT_TEXT[kind]), max_size=5)
    ids: list[int] = data.draw(without)
    for character in data.draw(st.lists(st.sampled_from(_texts(kind)), max_size=30)):
        for token in character:
            ids += [token, *data.draw(without)]
    context = data.draw(st.lists(st.sampled_from([c[0] for c in _texts(kind)[:2]]), max_size=8))
    detokenizer = IncrementalDetokenizer(tokenizer, context)
    text = "".join([detokenizer.push(t) for t in ids] + [detokenizer.flush()])
    known = tokenizer.decode(context, skip_special_tokens=True)
    assert known + text == tokenizer.decode(context + ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_without_text_cost_the_same_however_many(kind: str) -> None:
    decoded: list[int] = []

    class Counted:
        def decode(self, ids: list[int], **how: Any) -> str:
            decoded.append(len(ids))
            return TOKENIZERS[kind].decode(ids, **how)

    detokenizer = IncrementalDetokenizer(Counted())
    for _ in range(500):
        for token in WITHOUT_TEXT[kind]:
            assert detokenizer.push(token) == ""
    assert max(decoded) < 10
    for character in _texts(kind):  # the spaces are there
        text = "".join([detokenizer.push(t) for t in character])
        assert text.strip() == TOKENIZERS[kind].decode(character).strip()
    assert max(decoded) < 10


@given(letters, many_stops, st.data())
def test_stop_matcher_gives_what_a_plain_search_gives(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    """Push by push: nothing is held back longer either."""
    matcher, plain = StopMatcher(stops), _PlainMatcher(stops)
    for piece in _cut(text, data):
        given_text, stopped = matcher.push(piece)
        assert (given_text, stopped) == plain.push(piece)
        assert matcher.found == plain.found
        if stopped:
            return
    assert matcher.flush() == plain.pending


class _PlainMatcher:
    """Looks for every stop string in all that is held back."""

    def __init__(self, stops: list[str]) -> None:
        self._stops, self.pending, self.found = stops, "", ""

    def push(self, text: str) -> tuple[str, bool]:
        self.pending += text
        hits = [(at + len(s), at, s) for s in self._stops if (at := self.pending.find(s)) >= 0]
        if hits:
            _, at, self.found = min(hits)
            return self.pending[:at], True
        ends = range(len(self.pending) + 1)
        begun = [n for n in ends for s in self._stops if n < len(s) and s.startswith(self._end(n))]
        cut = len(self.pending) - max(begun)
        safe, self.pending = self.pending[:cut], self.pending[cut:]
        return safe, False

    def _end(self, length: int) -> str:
        return self.pending[len(self.pending) - length :]


def test_a_scan_does_not_look_at_every_stop_string() -> None:
    """Of the longest ones, which all begin alike and are never complete."""
    strings = StopStrings(["a" * 900 + chr(98 + i) * 124 for i in range(16)])
    assert len(strings.depth) <= 1 + 900 + 16 * 124
    text, lines = "a" * 5000 + "z", 0

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        state, end = strings.scan(0, text)
    finally:
        sys.settrace(before)
    assert (state, end) == (0, 0)
    assert lines < 30 * len(text)


@given(few_letters, stop_lists, st.data())
def test_stop_matcher_is_the_same_however_the_text_is_cut(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    emitted, stopped = _run(StopMatcher(stops), _cut(text, data))
    assert (emitted, stopped) == _expected(text, stops)


@given(few_letters, stop_lists, st.data())
def test_nothing_emitted_is_taken_back(text: str, stops: list[str], data: st.DataObject) -> None:
    """What is out before the stop string is found is a beginning of the final text."""
    matcher, out = StopMatcher(stops), ""
    final, _ = _expected(text, stops)
    for piece in _cut(text, data):
        safe, stopped = matcher.push(piece)
        out += safe
        assert final.startswith(out)
        if stopped:
            return


def _run(matcher: StopMatcher, pieces: list[str]) -> tuple[str, bool]:
    out = ""
    for piece in pieces:
        safe, stopped = matcher.push(piece)
        out += safe
        if stopped:
            return out, True
    return out + matcher.flush(), False


def _expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """Letter by letter: the first stop string that is complete."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)], True
    return text, False


def _cut(text: str, data: st.DataObject) -> list[str]:
    pieces = []
    while text:
        size = data.draw(st.integers(1, len(text)))
        pieces.append(text[:size])
        text = text[size:]
    return pieces
