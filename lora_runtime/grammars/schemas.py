"""JSON Schemas: what llguidance would pass over, or come close to only, is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import inf
from typing import Any
from urllib.parse import unquote

from ..errors import InvalidRequestError

_NOT_KNOWN = (
    # llguidance passes over them, as it does annotations; draft 3 has the first three.
    *("disallow", "divisibleBy", "extends", "x-guidance"),
    # It knows them, and refuses them, where the schema says that it is of a later draft.
    *("dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"),
)
_LEVELS = 100
_NAMED = {"properties", "patternProperties", "$defs", "definitions"}
_VALUES = {"const", "enum"}
_DATA = {*_VALUES, "default", "examples", "required", "type"}
"""Keywords whose values are no schemas."""
_LOWER, _UPPER = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
_BOUNDS = {*_LOWER, *_UPPER, "multipleOf"}
_EXACT = 1 << 53
"""Beyond it floats, which llguidance has for all numbers, are not every integer."""
_MOST = (1 << 63) - 1
_Bound = tuple[float, bool]
"""A number, and whether it is left out itself."""
_OPEN: _Bound = -inf, False
_Sides = tuple[_Bound, _Bound, bool]
"""The lower bound, the upper one with its sign turned, and whether only integers are allowed."""


def refusal(text: str) -> InvalidRequestError:
    """Refusal of a request for its structured answer."""
    return InvalidRequestError.of("structured", text)


def read_schema(text: str) -> dict[str, Any]:
    """Read a schema, without what has no effect. Raises InvalidRequestError."""
    try:
        schema = json.loads(text, parse_constant=_no_constant)
        if schema is True:
            return {}
        if not isinstance(schema, dict):
            raise ValueError("it is no object")
        is_draft_4 = "draft-04" in str(schema.get("$schema"))
        parts = list(_schemas(schema))
        for part in parts:
            _check(part, is_draft_4)
        bounds = _Bounds(schema)
        for part in parts:
            bounds.check(part)
    except RecursionError:
        raise refusal("is no JSON Schema: it has too many levels") from None
    except (ValueError, OverflowError) as error:
        raise refusal(f"is no JSON Schema: {error}"[:300]) from error
    return schema


def _check(part: dict[str, Any], is_draft_4: bool) -> None:
    for keyword in (*_NOT_KNOWN, *(["const"] if is_draft_4 else [])):
        if keyword in part:
            raise refusal(f"has the keyword {keyword!r}, which is not supported")
    if isinstance(part.get("required"), bool):
        raise refusal("has the keyword 'required' of draft 3, which is not supported")
    if part.get("uniqueItems") is False:
        del part["uniqueItems"]
    if not isinstance(part.get("items"), list):
        part.pop("additionalItems", None)  # llguidance forgets prefixItems beside it
    _check_names(part)
    _check_numbers(part)


def _check_names(part: dict[str, Any]) -> None:
    least, required = part.get("minProperties"), part.get("required")
    sure = 1 + (len(required) if isinstance(required, list) else 0)
    if isinstance(least, int) and least > sure:  # a name may come twice
        raise refusal("has a 'minProperties' of more than those required and one, not supported")


def _check_numbers(part: dict[str, Any]) -> None:
    given = [(key, part[key]) for key in part.keys() & _BOUNDS]
    given += [(key, one) for key in part.keys() & _VALUES for one in _leaves(part[key])]
    for key, value in given:
        if isinstance(value, int | float) and not _is_held(key, value):
            raise refusal(f"has {key!r} with a number that is not held exactly")


class _Bounds:
    """Bounds of numbers. Schemas may have them together: with what one refers to, and its allOf."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._known: dict[int, _Sides] = {}

    def check(self, part: dict[str, Any]) -> None:
        """Check a schema's, and those that it has with each of its choices."""
        own = self._of(part)
        _refuse_narrow(own)
        for choice in (*_list(part, "anyOf"), *_list(part, "oneOf")):
            _refuse_narrow(_both(own, self._of(choice)))

    def _of(self, part: Any) -> _Sides:
        if not isinstance(part, dict):
            return _OPEN, _OPEN, False
        if (known := self._known.get(id(part))) is not None:
            return known
        found = self._known[id(part)] = _own_bounds(part)  # it may hold itself
        others = _list(part, "allOf")
        if isinstance(reference := part.get("$ref"), str):
            others = [*others, _referred_to(reference, self._schema)]
        for other in others:
            found = _both(found, self._of(other))
        self._known[id(part)] = found
        return found


def _both(one: _Sides, other: _Sides) -> _Sides:
    return max(one[0], other[0]), max(one[1], other[1]), one[2] or other[2]


def _refuse_narrow(sides: _Sides) -> None:
    low, high, is_integer = sides
    if is_integer or _OPEN in (low, high):
        return
    high = -high[0], high[1]
    near, far = sorted((low, high), key=lambda bound: abs(bound[0]))
    # llguidance lets the bound itself through.
    is_narrow = low[0] * high[0] >= 0 and int(far[0]) == near[0] != far[0]
    if near[1] and is_narrow:
        raise refusal(f"has numbers behind {near[0]:g}, and before the next integer: not supported")


def _list(part: dict[str, Any], name: str) -> list[Any]:
    found = part.get(name)
    return found if isinstance(found, list) else []


def _own_bounds(part: dict[str, Any]) -> _Sides:
    found = []
    for side, sign in (("Minimum", 1), ("Maximum", -1)):
        plain, outer = part.get(side.lower()), part.get(f"exclusive{side}")
        if outer is True:  # of draft 4
            outer, plain = plain, None
        bounds = [
            (sign * float(value), is_out)
            for value, is_out in ((outer, True), (plain, False))
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        found.append(max(bounds, default=_OPEN))
    return found[0], found[1], part.get("type") == "integer"


def _referred_to(reference: str, schema: dict[str, Any]) -> Any:
    """Part of the schema that a JSON pointer leads to; None where there is none."""
    at: Any = schema
    for name in unquote(reference).removeprefix("#").split("/")[1:]:
        if isinstance(at, list) and name.isdecimal() and int(name) < len(at):
            at = at[int(name)]
        elif isinstance(at, dict):
            at = at.get(name.replace("~1", "/").replace("~0", "~"))
        else:
            return None
    return at


def _is_held(keyword: str, value: float) -> bool:
    """Whether what llguidance makes of a number lets nothing through that the number does not."""
    if abs(value) <= _EXACT:
        return True
    try:
        nearest = min(max(int(float(value)), -_MOST - 1), _MOST)
    except OverflowError:
        return False
    return (keyword in _UPPER and nearest <= value) or (keyword in _LOWER and nearest >= value)


def _leaves(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += one.values()
        else:
            yield one


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema and those within it."""
    waiting: list[tuple[Any, bool, int]] = [(schema, True, 0)]
    while waiting:
        value, is_schema, level = waiting.pop()
        if level > _LEVELS:
            raise ValueError("it has too many levels")
        if isinstance(value, list):
            waiting += [(one, True, level + 1) for one in value]
        elif isinstance(value, dict):
            if is_schema:
                yield value
            waiting += [
                (one, not (is_schema and key in _NAMED), level + 1)
                for key, one in value.items()
                if not (is_schema and key in _DATA)
            ]
