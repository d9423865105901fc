"""What is on the board, row by row."""

from __future__ import annotations

from .adapters import ADAPTERS
from .capacity import CAPACITY
from .overview import OVERVIEW
from .reliability import RELIABILITY

ROWS = {
    "Overview": OVERVIEW,
    "Adapters": ADAPTERS,
    "Capacity": CAPACITY,
    "Reliability": RELIABILITY,
}
