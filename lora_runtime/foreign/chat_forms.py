"""Turns of a chat in the form that its template takes: contents as texts or as lists of parts, and
arguments of calls as objects or as their JSON texts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Turn = dict[str, Any]
_PROBE = "loramux-question"


@dataclass(frozen=True)
class Forms:
    """What a template takes as a turn's content: a text, a list of parts, or both."""

    texts: bool
    parts: bool


def forms_of(template: str, special: dict[str, Any]) -> Forms:
    """Find out what a template takes, by a conversation of one turn. `special`: its tokens."""
    return _forms_of(template, json.dumps(special, sort_keys=True, default=str))


@lru_cache(16)
def _forms_of(template: str, special: str) -> Forms:
    values = json.loads(special)
    parts = [{"type": "text", "text": _PROBE}]
    with_text, with_parts = (_probed(template, c, values) for c in (_PROBE, parts))
    # Printed as it is, or as JSON, a list has the text in it, too, in quotes.
    is_printed = any(f"{quote}{_PROBE}{quote}" in with_parts for quote in "'\"")
    return Forms(_PROBE in with_text, _PROBE in with_parts and not is_printed)


def _probed(template: str, content: Any, special: dict[str, Any]) -> str:
    """Text of a conversation, empty if the template has none for it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [{"role": "user", "content": content}]
    arguments: dict[str, Any] = {"conversations": [chat], "chat_template": template}
    with contextlib.suppress(Exception):  # whatever a template does with it
        texts: Any = render_jinja_template(**arguments, **special, add_generation_prompt=True)
        return texts[0][0]
    return ""


def fitted(turns: list[Turn], forms: Forms) -> list[Turn]:
    """Turns with contents as the template takes them."""
    return [turn | {"content": _content(turn["content"], forms)} for turn in turns]


def _content(content: Any, forms: Forms) -> Any:
    if isinstance(content, list) and not forms.parts:
        return "\n".join(part["text"] for part in content)
    if isinstance(content, str) and forms.parts and not forms.texts:
        return [{"type": "text", "text": content}]
    return content


def render_turns(turns: list[Turn], render: Callable[[list[Turn]], str]) -> str:
    """Render turns. A template that fails at arguments which are objects gets their JSON texts."""
    try:
        return render(turns)
    except Exception:
        if not any("tool_calls" in turn for turn in turns):
            raise
        with contextlib.suppress(Exception):
            return render([_with_texts(turn) for turn in turns])
        raise


def _with_texts(turn: Turn) -> Turn:
    if "tool_calls" not in turn:
        return turn
    calls = [
        call
        | {
            "function": call["function"]
            | {"arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}
        }
        for call in turn["tool_calls"]
    ]
    return turn | {"tool_calls": calls}
