"""The table of adapters, as much of it as a terminal has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .rows import Row
from .words import counted

_GAP = 2
_ID, _NOTE = "adapter", "note"
_ID_WIDTH, _NOTE_WIDTH = 30, 20
_RIGHT = ("running", "requests", "rank", "size")
_COLUMNS = (
    _ID,
    "running",
    "requests",
    "state",
    "version",
    "rank",
    "size",
    "policy",
    "canary",
    _NOTE,
)
_LEAVE = ("size", "rank", "version", "policy", "requests", "canary", _NOTE, "state")
"""Columns in the order in which they make room."""


def adapters(found: Sequence[Row], most: int | None, width: int) -> Iterator[RenderableType]:
    """Draw `most` rows, and say how many there are beside."""
    shown = found[:most]
    if not shown:
        return
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    columns = _fitting(shown, width)
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in _RIGHT else "left",
            no_wrap=name != _NOTE,  # what may wrap is made narrow first
            max_width=_most(width) if name == _ID else None,
        )
    for row in shown:
        table.add_row(*(_cell(row, name) for name in columns))
    yield table
    if more := len(found) - len(shown):
        yield Text(f"and {counted(more, 'adapter')} more", "dim")


def _cell(row: Row, name: str) -> Text:
    return Text(str(getattr(row, name) or ""), no_wrap=True, overflow="ellipsis")


def _fitting(shown: Sequence[Row], width: int) -> list[str]:
    """Give the columns that say something and have room."""
    widths = {}
    for name in _COLUMNS:
        if said := max(_cell(row, name).cell_len for row in shown):
            most = {_NOTE: _NOTE_WIDTH, _ID: _most(width)}.get(name, said)
            widths[name] = _GAP + max(min(said, most), len(name))
    for name in _LEAVE:
        if sum(widths.values()) > width:
            widths.pop(name, None)
    return list(widths)


def _most(width: int) -> int:
    """Width of the ids' column: one long id does not take the others' columns."""
    return max(_ID_WIDTH, width // 2)
