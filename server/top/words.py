"""Figures and strangers' texts as a terminal shows them."""

from __future__ import annotations

import re
from typing import Any

_UNITS = ("KiB", "MiB", "GiB", "TiB")


def size(num_bytes: int) -> str:
    """Write bytes in the unit that makes them short."""
    value, unit, larger = float(num_bytes), "B", list(_UNITS)
    while value >= 1000 and larger:
        value, unit = value / 1024, larger.pop(0)
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def counted(number: int, what: str) -> str:
    """Write a number of things."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def seconds(value: float) -> str:
    """Write a short time in ms, a longer one in s."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def one_line(text: str) -> str:
    """Give `text` without what moves the cursor or changes colours."""
    return "".join(c if c.isprintable() else "�" for c in text)


def name_of(states: Any, state: int) -> str:
    """Write a state; one that only a newer server knows by its number."""
    if state not in states.values():
        return str(state)
    return re.sub(r"^[A-Z]+_STATE_", "", states.Name(state)).lower()
