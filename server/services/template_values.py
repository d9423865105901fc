"""Values for chat templates, from a message's Struct."""

from __future__ import annotations

from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

_EXACT = 1 << 53
"""From here on a double is no exact integer."""


def to_values(struct: Struct) -> dict[str, Any]:
    """Turn a Struct into JSON values. It has as many as limits.py lets through, and as deep.

    Names are sorted: a Struct has them in no order, and the same request makes the same prompt.
    """
    return {name: _value(struct.fields[name]) for name in sorted(struct.fields)}


def _value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return to_values(value.struct_value)
    if kind == "list_value":
        return [_value(one) for one in value.list_value.values]
    if kind in (None, "null_value"):
        return None
    found = getattr(value, kind)
    # JSON tells 1 from 1.0 no more than a Struct does, and templates count with it.
    if kind == "number_value" and found.is_integer() and abs(found) <= _EXACT:
        return int(found)
    return found
