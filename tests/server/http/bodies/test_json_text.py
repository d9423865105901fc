"""JSON of strangers: the same as the standard library's, or refused, and never all at once."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http.bodies import json_text
from server.http.bodies.json_text import JSONError, Limits, parse

LIMITS = Limits(1000)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.integers(12, 64))
def test_what_json_has_is_read_as_it_is(value: Any, ascii: bool, piece: int) -> None:
    data = json.dumps(value, ensure_ascii=ascii).encode()
    assert parse(data, LIMITS) == value
    with pytest.MonkeyPatch.context() as patch:  # as long texts are read
        patch.setattr(json_text, "_PIECE", piece)
        patch.setattr(json_text, "_PAUSE_S", 0)
        patch.setattr(json_text, "_QUICK_BYTES", 0)
        if _longest_name(value, ascii) < piece:
            assert parse(data, LIMITS) == value


def _longest_name(value: Any, ascii: bool) -> int:
    """Characters of the longest name in it, as it is written."""
    if isinstance(value, dict):
        names = (len(json.dumps(name, ensure_ascii=ascii)) for name in value)
        return max([0, *names, *(_longest_name(inner, ascii) for inner in value.values())])
    return (
        max((_longest_name(v, ascii) for v in value), default=0) if isinstance(value, list) else 0
    )


REFUSED = {
    "nothing": (b"", "Expecting value"),
    "more": (b"{} {}", "Extra data"),
    "nan": (b'{"a": NaN}', "NaN is no number"),
    "infinity": (b"[-Infinity]", "-Infinity is no number"),
    "large-float": (b"[1e999]", "a number is too large"),
    "long-number": (b"[" + b"1" * 300 + b"]", "a number is too long"),
    "very-long-number": (b"1" * 9000, "a number is too long"),
    "long-fraction": (b"[0." + b"1" * 9000 + b"]", "a number is too long"),
    "two-names": (b'{"model": "a", "model": "b"}', "an object has a name twice"),
    "two-names-in-escapes": (b'{"a": 1, "\\u0061": 2}', "an object has a name twice"),
    "high-half": (b'["\\ud800"]', "a text is not ended, or has a wrong escape"),
    "low-half": (b'["\\uDc00 \\ud83d\\ude00"]', "a text is not ended, or has a wrong escape"),
    "halves-turned-round": (b'["\\ude00\\ud83d"]', "a text is not ended, or has a wrong escape"),
    "not-utf-8": (b'["\xff"]', "it is not UTF-8"),
    "half-utf-8": (b'["\xc3', "it is not UTF-8"),
    "surrogate-utf-8": (b'["\xed\xa0\x80"]', "it is not UTF-8"),
    "utf-16": ("[1]".encode("utf-16"), "it is not UTF-8"),
    "control": (b'["\n"]', "Invalid control character at"),
    "deep": (b"[" * 65 + b"]" * 65, "more than 64 levels"),
    "very-deep": (b'{"a":' * 90_000, "more than 64 levels"),
    "many": (b"[" + b"{}," * 5000 + b"0]", "more than 1000 values"),
    "many-lists": (b"[" + b"[]," * 1000 + b"0]", "more than 1000 values"),
    "open-text": (b'["' + b"a" * 70_000, "a text is not ended, or has a wrong escape"),
    "long-text-with-a-wrong-escape": (
        b'["' + b"a" * 70_000 + b'\\x"]',
        "Invalid \\escape",
    ),
    "long-text-with-a-control": (b'["' + b"a" * 70_000 + b'\n"]', "Invalid control character at"),
    "long-name": (b'{"' + b"a" * 70_000 + b'": 1}', "a name is too long"),
}


@pytest.mark.parametrize(("data", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(JSONError) as caught:
        parse(data, LIMITS)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("length", [1, 70_000], ids=["short", "long"])
def test_a_mark_of_the_byte_order_is_passed_over(length: int) -> None:
    text = "a" * length
    assert parse(json.dumps([text]).encode("utf-8-sig"), LIMITS) == [text]


def test_commas_in_texts_are_no_values() -> None:
    text = "a, b, [c], {d}, " * 5000
    assert parse(json.dumps({"a": text}).encode(), LIMITS) == {"a": text}


def test_escapes_that_are_none() -> None:
    assert parse(b'["\\\\ud800", "\\ud83d\\ude00"]', LIMITS) == ["\\ud800", "\U0001f600"]


def test_digits_in_texts_are_no_numbers() -> None:
    text = "1" * 3000
    assert parse(json.dumps([text]).encode(), LIMITS) == [text]


NUMBERS = {
    "ids": "[" + ",".join(map(str, range(40_000))) + "]",
    "lists": json.dumps([list(range(n)) for n in range(1, 400)]),
    "one-digit": "[" + "7," * 100_000 + "7]",
    "among": json.dumps([*range(5000), 0.5, *range(5000), -1, *range(5000), 1e3, None, [5], 10]),
    "zeros": "[" + "0, " * 20_000 + "0]",
    "in-objects": json.dumps({"a": list(range(9000)), "b": [{"c": list(range(9000))}, 1]}),
    "spaces": "[" + " ,\n\t".join(map(str, range(9000))) + "]",
}


@pytest.mark.parametrize("text", NUMBERS.values(), ids=NUMBERS)
def test_runs_of_numbers_are_no_values(text: str) -> None:
    assert parse(text.encode(), Limits(2000)) == json.loads(text)


NO_RUNS = {
    "no-list": "1," * 20_000 + "1",
    "no-value": '{"a": ' + "1," * 20_000 + "1}",
    "no-name": "{" + "1," * 20_000 + '1: "a"}',
    "last-comma": "[" + "1," * 20_000 + "]",
    "no-comma": "[" + "1," * 20_000 + "1 1]",
    "zeros-before": "[" + "01," * 20_000 + "1]",
    "no-fraction": "[" + "1," * 20_000 + "1.]",
    "minus": "[" + "1," * 20_000 + "1-]",
}


@pytest.mark.parametrize("text", NO_RUNS.values(), ids=NO_RUNS)
def test_numbers_that_are_no_json(text: str) -> None:
    with pytest.raises(JSONError):
        parse(text.encode(), Limits(100_000))
    with pytest.raises(ValueError, match="line 1"):
        json.loads(text)


def test_numbers_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "_MOST_NUMBERS", 9_999)
    with pytest.raises(JSONError, match="more than 9999 numbers"):
        parse(NUMBERS["ids"].encode(), LIMITS)


HEAVY = {
    "plain": '"' + "a" * (4 << 20) + '"',
    "escapes": '"' + "\\n" * (2 << 20) + '"',
    "wide": '"' + "\\ud83d\\ude00" * (4 << 20 >> 4) + '"',
    "two": '["' + "\\u0041" * 300_000 + '", "' + "é" * 300_000 + '"]',
}


@pytest.mark.parametrize("text", HEAVY.values(), ids=HEAVY)
def test_others_get_the_interpreter_in_the_middle(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: pieces.append(len(pieces)))
    unescape = json_text._unescaped

    def watched(inside: str) -> str:
        assert len(inside) <= json_text._PIECE
        return unescape(inside)

    monkeypatch.setattr(json_text, "_unescaped", watched)
    assert parse(text.encode(), LIMITS) == json.loads(text)
    assert len(pieces) >= len(text) // json_text._PIECE
