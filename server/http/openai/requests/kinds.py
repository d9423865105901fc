"""Kinds of values in a request's fields: each reads JSON into what the engine takes.

A reader raises Wrong; it converts no more than it has counted. Numbers are read as JSON has them:
1.0 is an integer, "1" is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lora_runtime import RequestLimits

T = TypeVar("T")
_EXACT = 1 << 53
"""Up to here a float is the integer that was meant."""
_ID_DIGITS = 12


class Wrong(Exception):
    """What is wrong with a field's value, in words."""


@dataclass(frozen=True)
class Kind:
    """Reader of a value, and the value's JSON schema, for the description of the API."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]
    counted: str = ""
    """Name of the list in RequestLimits that its entries are counted as, before they are read."""
    count: Callable[[Any], int] = lambda value: len(value) if isinstance(value, list) else 0

    def check_count(self, value: Any, limits: RequestLimits) -> None:
        """Raises Wrong for a list with too many entries."""
        most = limits.at_most().get(self.counted)
        if most is not None and self.count(value) > most:
            raise Wrong(limits.excess(self.counted))


def to_boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong("must be true or false")
    return value


def to_integer(value: Any) -> int:
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Wrong("must be an integer")
    return value


def to_number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Wrong("must be a number")
    try:
        return float(value)
    except OverflowError:
        raise Wrong("must be a number that is finite") from None


def to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Wrong("must be a string")
    return value


def to_object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Wrong("must be an object")
    return value


def to_list(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise Wrong(f"must be a list of {what}")
    return value


def in_list(value: Any, what: str, read: Callable[[Any], T]) -> tuple[T, ...]:
    """Read the entries of a list; what is wrong with one is said with its place."""
    found = []
    for index, entry in enumerate(to_list(value, what)):
        try:
            found.append(read(entry))
        except Wrong as wrong:
            raise Wrong(f"[{index}] {wrong}") from None
    return tuple(found)


def list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    """Make the schema of a list."""
    return {"type": "array", "items": items}


def to_stop(value: Any) -> tuple[str, ...]:
    """Strings, of which one may come without a list around it."""
    if isinstance(value, str):
        return (value,)
    return tuple(to_text(one) for one in to_list(value, "strings"))


def to_integers(value: Any) -> tuple[int, ...]:
    entries = to_list(value, "integers")
    if set(map(type, entries)) <= {int}:  # ten times as fast: prompts have many
        return tuple(entries)
    return tuple(to_integer(one) for one in entries)


def to_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """Pairs of a token id, which is a name in JSON, and its bias."""
    found = []
    for name, bias in to_object(value).items():
        if not (name.isascii() and name.isdigit()) or len(name) > _ID_DIGITS:
            raise Wrong(f"{name[:64]!r} is no token id")
        found.append((int(name), to_number(bias)))
    return tuple(found)


def one_of(*names: str) -> Kind:
    def read(value: Any) -> str:
        if value not in names:
            raise Wrong(f"must be one of {', '.join(names)}")
        return value

    return Kind(read, {"enum": list(names)})


BOOLEAN = Kind(to_boolean, {"type": "boolean"})
INTEGER = Kind(to_integer, {"type": "integer"})
NUMBER = Kind(to_number, {"type": "number"})
TEXT = Kind(to_text, {"type": "string"})
OBJECT = Kind(to_object, {"type": "object"})
STOP = Kind(
    to_stop,
    {"anyOf": [{"type": "string"}, list_of({"type": "string"})]},
    counted="stop",
)
BIAS = Kind(
    to_bias,
    {"type": "object", "additionalProperties": {"type": "number"}},
    counted="logit_bias",
    count=lambda value: len(value) if isinstance(value, Mapping) else 0,
)
TOKEN_IDS = Kind(to_integers, list_of({"type": "integer"}), counted="stop_token_ids")


@dataclass(frozen=True)
class Field:
    """A field of a request: its kind, and where its value goes.

    `to`: "sampling.NAME" and "request.NAME" are fields of SamplingParams and Request, "option.NAME"
    one of Options. A null is no value.
    """

    name: str
    kind: Kind
    to: str
    change: Callable[[Any], Any] | None = None
    """Change from what clients mean to what the engine takes; raises Wrong."""


@dataclass(frozen=True)
class Unused:
    """A field that is known and has no effect."""

    name: str


@dataclass(frozen=True)
class Refused:
    """A field that changes the answer in a way that is not served: refused by its name, but for
    values that change nothing."""

    name: str
    neutral: tuple[Any, ...] = field(default=())
    hint: str = ""

    def check(self, value: Any) -> None:
        if value is None or any(value == one and type(value) is type(one) for one in self.neutral):
            return
        raise Wrong("is not supported" + (f": {self.hint}" if self.hint else ""))
