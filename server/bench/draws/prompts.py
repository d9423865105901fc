"""Prompts from a text or a file, and the salts that keep their prefixes apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """What a call asks: a text, or the messages of a chat."""

    text: str = ""
    messages: tuple[dict[str, str], ...] = ()

    def as_chat(self) -> Prompt:
        return self if self.messages else Prompt(messages=({"role": "user", "content": self.text},))


def read_prompts(file: Path) -> list[Prompt]:
    """Read a prompt a line; of a .jsonl file objects with `prompt` or `messages`.

    Raises ValueError, OSError.
    """
    lines = [
        (i, line) for i, line in enumerate(file.read_text("utf-8").splitlines(), 1) if line.strip()
    ]
    if not lines:
        raise ValueError("there is no prompt in it")
    if file.suffix != ".jsonl":
        return [Prompt(line) for _, line in lines]
    return [_row(line, number) for number, line in lines]


def _row(line: str, number: int) -> Prompt:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # halves of characters show here
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is no JSON in UTF-8: {error}") from None
    match row:
        case {"prompt": str(text), **others} if not others:
            return Prompt(text)
        case {"messages": [_, *_] as messages, **others} if not others:
            return Prompt(messages=tuple(_message(one, number) for one in messages))
    raise ValueError(f'line {number} must be {{"prompt": "..."}} or {{"messages": [...]}}')


def _message(value: Any, number: int) -> dict[str, str]:
    match value:
        case {"role": str(role), "content": str(content), **others} if not others:
            return {"role": role, "content": content}
    raise ValueError(f"line {number}: a message has a role and a content, both texts")


def salts() -> Iterator[str]:
    """Give cache salts without end, none of them twice: such calls share no cached prefix."""
    run = token_hex(8)
    return (f"{run}-{number}" for number in count(1))
