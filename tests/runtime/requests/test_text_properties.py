"""Property tests of detokenisation and stop strings: any text, cut anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lora_runtime.requests.detokenize import IncrementalDetokenizer, StopMatcher

from ...support.models import make_tokenizer

TOKENIZER = make_tokenizer()
any_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=60
)
few_letters = st.text("ab", max_size=30)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


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
