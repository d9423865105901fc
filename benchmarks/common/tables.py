"""Tables in Markdown pages that are made from data, so that they cannot go stale.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; what is between them is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of these cells."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def named(text: str) -> list[str]:
    """The tables that `text` has places for."""
    return re.findall(r"<!-- table (\S+) -->\n", text)


def filled(text: str, tables: Mapping[str, str]) -> str:
    """`text` with these tables in their places. Names that the text has no place for change
    nothing."""
    for name, content in tables.items():
        text = re.sub(
            rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)",
            lambda m, c=content: m[1] + c + m[2],
            text,
            flags=re.DOTALL,
        )
    return text


def fill(page: Path, tables: Mapping[str, str]) -> None:
    """`filled`, in the file."""
    page.write_text(filled(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
