"""Values of adapter_config.json, each of its field's type, or AdapterError naming the field."""

from __future__ import annotations

from typing import Any

from ...errors import AdapterError
from .files import shown

Rule = str | frozenset[str]
"""Rule that selects modules: a string is a regular expression for the whole path, a set holds names
or path ends."""


def number(config: dict[str, Any], name: str, kind: type, default: float) -> Any:
    # null is refused, as in PEFT: no number is the one that was trained with.
    return _checked_number(name, config.get(name, default), kind)


def _checked_number(name: str, value: Any, kind: type) -> Any:
    """Check a number as PEFT does: a rank is a positive whole number, an alpha any finite one."""
    if kind is int and type(value) is int and 0 < value < 1 << 31:
        return value
    if kind is float and type(value) in (int, float) and abs(value) < 1e30:
        return float(value)
    what = "a positive whole number" if kind is int else "a finite number"
    raise AdapterError(f"config field {name!r} = {shown(value)} is not {what}")


def flag(config: dict[str, Any], name: str) -> bool:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise AdapterError(f"config field {name!r} = {shown(value)} is neither true nor false")
    return bool(value)


def choice(config: dict[str, Any], name: str, default: Any, allowed: set[Any]) -> Any:
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, str | None) or value not in allowed:
        choices = ", ".join(sorted(a for a in allowed if a))
        raise AdapterError(
            f"config field {name!r} = {shown(value)} is not supported: only {choices}"
        )
    return value


def text(config: dict[str, Any], name: str) -> str:
    value = config.get(name)
    if value is not None and not isinstance(value, str):
        raise AdapterError(f"config field {name!r} = {shown(value)} is not a string")
    return (value or "").encode("utf-8", "replace").decode()


def by_name(config: dict[str, Any], name: str, kind: type) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise AdapterError(f"config field {name!r} is not an object")
    return {key: _checked_number(f"{name}.{shown(key)}", v, kind) for key, v in value.items()}


def rule(config: dict[str, Any], name: str) -> Rule:
    value = config.get(name)
    return value if isinstance(value, str) and value else frozenset(names(config, name))


def names(config: dict[str, Any], name: str, list_only: bool = False) -> tuple[str, ...]:
    value = config.get(name)
    if not value:
        return ()
    if isinstance(value, str) and not list_only:
        return (value,)
    if isinstance(value, list) and all(isinstance(v, str) and v for v in value):
        return tuple(value)
    raise AdapterError(f"config field {name!r} = {shown(value)} is not a list of names")


def layers(config: dict[str, Any]) -> tuple[int, ...]:
    value = config.get("layers_to_transform")
    if value is None:
        return ()
    return integers("layers_to_transform", value if isinstance(value, list) else [value])


def token_indices(config: dict[str, Any]) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    name, value = "trainable_token_indices", config.get("trainable_token_indices")
    if value is None:
        return None
    if isinstance(value, dict):
        return {key: _distinct(f"{name}.{shown(key)}", v) for key, v in value.items() if key}
    return _distinct(name, value)


def _distinct(name: str, value: Any) -> tuple[int, ...]:
    tokens = integers(name, value)
    if not tokens or len(set(tokens)) < len(tokens):
        raise AdapterError(
            f"config field {name!r} holds {'a token twice' if tokens else 'no tokens'}"
        )
    return tokens


def integers(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(v) is int and 0 <= v < 1 << 31 for v in value):
        raise AdapterError(f"config field {name!r} = {shown(value)} is not a list of whole numbers")
    return tuple(value)
