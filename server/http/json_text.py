"""JSON that anybody may have written: counted first, then parsed, strictly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_STRUCTURE = (b",", b"[", b"{")
_MAX_DEPTH = 64


@dataclass(frozen=True)
class Limits:
    """Limits of a text: numbers, texts, lists and so on that it may have in it."""

    values: int


class JSONError(ValueError):
    """Error of a text that is no JSON, or more than is taken; its words are for callers."""


def parse(data: bytes, limits: Limits) -> Any:
    """Parse `data`. Raises JSONError.

    Refused beside what is no JSON: NaN and infinities, a name twice in one object, numbers that
    floats or Python's integers do not take, halves of characters, more values than `limits` has.
    """
    if sum(map(data.count, _STRUCTURE)) > limits.values:
        raise JSONError(f"more than {limits.values} values")
    try:
        text = data.decode()
        return _DECODER.decode(text)
    except JSONError:
        raise
    except json.JSONDecodeError as error:
        raise JSONError(f"{error.msg}, character {error.pos}") from None
    except UnicodeDecodeError:
        raise JSONError("it is not UTF-8") from None
    except RecursionError:
        raise JSONError(f"more than {_MAX_DEPTH} levels") from None
    except ValueError:
        raise JSONError("a number is too large") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise JSONError("an object has a name twice")
    return found


def _constant(name: str) -> Any:
    raise JSONError(f"{name} is no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
