"""The page's table of fields, made from the one that requests are read by.

python -m server.http.openai.page docs/guide/http.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .requests.fields import CHAT, COMPLETION
from .requests.kinds import Field, Refused, Unused

_ROWS = {
    Field: "taken",
    Unused: "without effect",
    Refused: "refused by name, unless the value changes nothing",
}
_PLACE = re.compile(r"(<!-- fields -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Give a page with the table in its place."""
    return _PLACE.sub(lambda old: old[1] + _table() + old[2], text)


def _table() -> str:
    lines = ["| | both | completions | chats |", "| --- | --- | --- | --- |"]
    for kind, told in _ROWS.items():
        completion, chat = (
            {one.name for one in form.fields if isinstance(one, kind)}
            for form in (COMPLETION, CHAT)
        )
        cells = map(_names, (completion & chat, completion - chat, chat - completion))
        lines.append(f"| {told} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _names(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(filled(page.read_text()))
