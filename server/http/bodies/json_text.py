"""JSON that anybody may have written: looked at and counted first, then parsed, strictly.

To parse holds the interpreter, and a body of 4 MB may have two million values, or one text with as
many escapes. So values are counted before they are made, and long texts, and runs of numbers, are taken out and
read in pieces, between which others get the interpreter.
"""

from __future__ import annotations

import codecs
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

_MAX_DEPTH = 64
_QUICK_BYTES = 4 << 10
"""Bytes that are parsed at once, unless they need a look."""
_PIECE = 16 << 10
"""Characters that are worked on between two pauses."""
_TEXTS = 512
"""Texts after which there is one."""
_PAUSE_S = 1e-4
_NUMBER_CHARS = 128
"""Characters of a stretch that must not be all of one number: no float has as many digits as two."""

_HAS_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_TEXT = re.compile(
    r"""[^"\\]*(?:\\(?:[^u]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}"""
    r"""|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})[^"\\]*)*"""
)
"""Pattern of a text's inside, in which halves of characters (surrogates) come in pairs."""
_BRACKETS = re.compile(r"[\[\]{}]")
_WHOLE = r"(?:0|[1-9]\d*+)"
_SPACE = r"[ \t\n\r]*+"
_RUN = re.compile(rf"(?<![\d.eE+-]){_WHOLE}(?:{_SPACE},{_SPACE}{_WHOLE})*+")
_RUN_CHARS = 64
_OF_NUMBERS = tuple("0123456789.eE")
_MOST_NUMBERS = 1 << 20
_NUMBER = re.compile(r"[0-9.eE+-]+")


@dataclass(frozen=True)
class Limits:
    """Limits of a text: numbers, texts, lists and so on that it may have in it."""

    values: int


class JSONError(ValueError):
    """Error of a text that is no JSON, or more than is taken; its words are for callers."""


def parse(data: bytes, limits: Limits) -> Any:
    """Parse `data`; a long text on a thread. Raises JSONError.

    Refused beside what is no JSON: NaN and infinities, a name twice in one object, numbers that
    floats or Python's integers do not take, halves of characters, more than `limits` or _MAX_DEPTH
    levels.
    """
    if _is_quick(data):
        return _decoded(_text_of(data), _DECODER)
    return _Reading(_text_of(data), limits).value()


def _is_quick(data: bytes) -> bool:
    return (
        len(data) <= _QUICK_BYTES
        and data.count(b"[") + data.count(b"{") <= _MAX_DEPTH
        and not _HAS_SURROGATE.search(data)
        and not _has_long_number(data.decode("latin-1"))
    )


def _text_of(data: bytes) -> str:
    decode = codecs.getincrementaldecoder("utf-8")().decode
    # Editors put a byte order mark before a file, and clients send such files.
    data = data.removeprefix(codecs.BOM_UTF8)
    data = data.strip(b" \t\n\r")  # what the decoder looks at by a pattern
    try:
        pieces = [decode(data[at : at + _PIECE]) for at in _pieces(0, len(data))]
        return "".join([*pieces, decode(b"", final=True)])
    except UnicodeDecodeError:
        raise JSONError("it is not UTF-8") from None


class _Reading:
    """Reading of one text.

    Its outline is the text with a mark for each long text, or run of numbers, in it.
    """

    def __init__(self, text: str, limits: Limits) -> None:
        self._text, self._most = text, limits.values
        self._values = self._depth = 0
        self._outline: list[str] = []
        self._mark = secrets.token_hex(16)
        self._long: dict[str, str] = {}
        self._runs: dict[str, list[int]] = {}
        self._numbers = 0

    def value(self) -> Any:
        """Read it all. Raises JSONError."""
        at = texts = 0
        while (quote := self._text.find('"', at)) >= 0:
            self._outside(at, quote)
            at = self._inside(quote + 1)
            if (texts := texts + 1) % _TEXTS == 0:
                time.sleep(_PAUSE_S)
        self._outside(at, len(self._text))
        found = _decoded("".join(self._outline), _decoder(self._object))
        return self._filled(found)

    def _outside(self, start: int, end: int) -> None:
        """Count what stands between two texts."""
        piece = self._text[start:end]
        if _has_long_number(piece):
            raise JSONError("a number is too long")
        if len(piece) > _PIECE:
            piece = self._without_runs(piece)
        self._outline.append(piece)
        self._values += piece.count(",") + piece.count("[") + piece.count("{")
        if self._values > self._most:
            raise JSONError(f"more than {self._most} values")
        for at in _pieces(0, len(piece)):
            for bracket in _BRACKETS.finditer(piece, at, at + _PIECE):
                self._depth += 1 if bracket[0] in "[{" else -1
                if self._depth > _MAX_DEPTH:
                    raise JSONError(f"more than {_MAX_DEPTH} levels")

    def _without_runs(self, piece: str) -> str:
        """Take long runs of whole numbers out: token ids, of which a body may have very many."""
        parts, done = [], 0
        for at in _pieces(0, len(piece)):
            for run in _RUN.finditer(piece, max(at, done), at + _PIECE):
                start, end = run.span()
                if end - start < _RUN_CHARS:
                    continue
                if piece[end : end + 1] in _OF_NUMBERS:  # the last one goes on
                    end = piece.rindex(",", start, end)
                numbers = list(map(int, piece[start:end].split(",")))
                if (count := self._numbers + len(numbers)) > _MOST_NUMBERS:
                    raise JSONError(f"more than {_MOST_NUMBERS} numbers")
                self._numbers = count
                mark = f"{self._mark}{len(self._runs)}n"
                self._runs[mark] = numbers
                parts += [piece[done:start], f'"{mark}"']
                done = end
        return "".join([*parts, piece[done:]])

    def _inside(self, start: int) -> int:
        """Read one text; gives where the next thing begins."""
        at, pieces = start, []
        while True:
            found = _TEXT.match(self._text, at, at + _PIECE)
            assert found is not None  # it may be empty
            end = found.end()
            if self._text[end : end + 1] == '"':
                break
            if end == at:  # else it was cut, perhaps in an escape
                raise JSONError(f"a text is not ended, or has a wrong escape, character {at}")
            pieces.append(_unescaped(self._text[at:end]))
            time.sleep(_PAUSE_S)
            at = end
        if not pieces:
            self._outline.append(self._text[start - 1 : end + 1])
            return end + 1
        mark = f"{self._mark}{len(self._long)}"
        self._long[mark] = "".join([*pieces, _unescaped(self._text[at:end])])
        self._outline.append(f'"{mark}"')
        return end + 1

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = _object(pairs)
        if any(name in self._long for name in found):
            raise JSONError("a name is too long")
        if self._runs and any(
            name in self._runs for pair in pairs for name in pair if type(name) is str
        ):
            raise JSONError("a name, or its value, is several numbers")
        return found

    def _filled(self, value: Any) -> Any:
        """Put the long texts and runs of numbers in."""
        if not self._long and not self._runs:
            return value
        if isinstance(value, str):
            if value in self._runs:
                raise JSONError("it is several numbers")
            return self._long.get(value, value)
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, list):
                one[:] = self._spliced(one)
            for key, inner in one.items() if isinstance(one, dict) else enumerate(one):
                if isinstance(inner, str):
                    one[key] = self._long.get(inner, inner)
                elif isinstance(inner, dict | list):
                    waiting.append(inner)
        return value

    def _spliced(self, values: list[Any]) -> Iterator[Any]:
        for value in values:
            run = self._runs.get(value) if isinstance(value, str) else None
            yield from (value,) if run is None else run


def _has_long_number(text: str) -> bool:
    stops = range(_NUMBER_CHARS, len(text), _NUMBER_CHARS)
    return any(_NUMBER.fullmatch(text, stop - _NUMBER_CHARS, stop) for stop in stops)


def _pieces(start: int, end: int) -> Iterator[int]:
    """Give where each piece begins, with pauses between them."""
    for at in range(start, end, _PIECE):
        if at > start:
            time.sleep(_PAUSE_S)
        yield at


def _unescaped(inside: str) -> str:
    try:
        return scanstring(inside + '"', 0, True)[0]
    except json.JSONDecodeError as error:
        raise JSONError(error.msg) from None


def _decoded(text: str, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(text)
    except JSONError:
        raise
    except json.JSONDecodeError as error:
        raise JSONError(f"{error.msg}, character {error.pos}") from None
    except RecursionError:
        raise JSONError(f"more than {_MAX_DEPTH} levels") from None
    except ValueError:
        raise JSONError("a number is too large") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise JSONError("an object has a name twice")
    return found


def _decoder(to_object: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=to_object, parse_constant=_constant, parse_float=_float
    )


def _constant(name: str) -> Any:
    raise JSONError(f"{name} is no number")


def _float(text: str) -> float:
    if abs(value := float(text)) == float("inf"):
        raise JSONError("a number is too large")
    return value


_DECODER = _decoder(_object)
