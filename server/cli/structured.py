"""Options of `loramux generate` for structured answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def structured(
    json_object: bool,
    json_schema: str | None,
    regex: str | None,
    choice: list[str] | None,
    lark: str | None,
) -> dict[str, Any] | None:
    """The message's field; None where no option is given."""
    given: dict[str, Any] = {
        "json_object": {} if json_object else None,
        "json_schema": _text(json_schema),
        "regex": regex,
        "choice": {"texts": choice} if choice else None,
        "lark": _text(lark),
    }
    form = {name: value for name, value in given.items() if value is not None}
    if len(form) > 1:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in form)
        raise typer.BadParameter(f"give one of {names}")
    return form or None


def _text(given: str | None) -> str | None:
    """A text, or that of the file behind an @."""
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{given}: {error}") from None
