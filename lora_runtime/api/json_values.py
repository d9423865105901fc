"""JSON values that callers send, measured before anything is done with them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_MAX_INTEGER = 1 << 63
_WRITTEN = 2
"""Characters of a JSON text for one of its names and texts, at most: escapes and all between them."""
_COMMAS = 4
"""Commas of a JSON text for a value, at most: texts have some, too."""


@dataclass(frozen=True)
class JsonBounds:
    """Bounds of values: how many, those within others among them; levels; and characters of names
    and texts together."""

    values: int
    depth: int
    characters: int


def too_much(values: Any, bounds: JsonBounds) -> str:
    """Say what is over a bound, or no JSON; "" if nothing is. Nothing is looked at beyond the
    bounds."""
    count = characters = 0
    waiting: list[tuple[Any, int]] = [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, Mapping | list | tuple):
            count += len(value)
            if depth == bounds.depth:
                return f"at most {bounds.depth} levels of values within values"
            if count > bounds.values:
                return f"at most {bounds.values} values, those within others among them"
            if isinstance(value, Mapping):
                if not all(isinstance(name, str) for name in value):
                    return "names must be texts"
                characters += sum(map(len, value))
            inner = value.values() if isinstance(value, Mapping) else value
            waiting += [(one, depth + 1) for one in inner]
        elif not is_number(value):
            return "must be JSON: texts, finite numbers of at most 64 bits, booleans, null, lists, objects"
        if characters > bounds.characters:
            return f"at most {bounds.characters} characters of names and texts"
    return ""


def is_number(value: Any) -> bool:
    """Whether it is a number, true, false or null."""
    if isinstance(value, int):
        return abs(value) <= _MAX_INTEGER
    return value is None or (isinstance(value, float) and math.isfinite(value))


def plain(value: Any) -> Any:
    """The values as dicts and lists of their own."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def read_object(value: str | Mapping[str, Any], bounds: JsonBounds) -> Mapping[str, Any]:
    """Read an object that may be given as JSON text. Raises ValueError that says what is wrong."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str):
        raise ValueError("must be an object, or its JSON text")
    check_text([value], bounds)
    try:
        found = json.loads(value, parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"at most {bounds.depth} levels of values within values") from None
    except ValueError as error:
        raise ValueError(f"is no JSON text: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("must be an object, or its JSON text")
    return found


def check_text(texts: Sequence[str], bounds: JsonBounds) -> None:
    """Check JSON texts before they are read: nothing else runs meanwhile. Raises ValueError."""
    if sum(map(len, texts)) > bounds.characters * _WRITTEN:
        raise ValueError(f"at most {bounds.characters} characters of names and texts")
    if sum(text.count(",") for text in texts) > bounds.values * _COMMAS:
        raise ValueError(f"at most {bounds.values} values, those within others among them")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
