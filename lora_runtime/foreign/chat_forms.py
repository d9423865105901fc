"""Turns of a chat in the form that its template takes: contents as texts or as lists of parts, a
developer's as the system's, arguments of calls as objects or as their JSON texts, ids of calls of
any length or of nine characters."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Turn = dict[str, Any]
_PROBE = "loramux-question"
_DEVELOPER = "developer"
_SHORT_ID = 9
"""Characters of a call's id, where a template takes no others (Mistral's)."""


@dataclass(frozen=True)
class Forms:
    """What a template takes as a turn's content: a text, a list of parts, or both."""

    texts: bool
    parts: bool


def fitted(turns: list[Turn], template: str, special: dict[str, Any]) -> list[Turn]:
    """Turns as the template takes them, which conversations of a turn or two find out. `special`:
    its tokens."""
    values = json.dumps(special, sort_keys=True, default=str)
    forms = _forms_of(template, values)
    turns = [turn | {"content": _content(turn["content"], forms)} for turn in turns]
    if any(turn["role"] == _DEVELOPER for turn in turns) and _drops_developers(template, values):
        turns = [turn | {"role": _system_for(turn["role"])} for turn in turns]
    return turns


@lru_cache(16)
def _forms_of(template: str, special: str) -> Forms:
    parts = [{"type": "text", "text": _PROBE}]
    with_text, with_parts = (
        _probed(template, special, [{"role": "user", "content": content}])
        for content in (_PROBE, parts)
    )
    # Printed as it is, or as JSON, a list has the text in it, too, in quotes.
    is_printed = any(f"{quote}{_PROBE}{quote}" in with_parts for quote in "'\"")
    return Forms(_PROBE in with_text, _PROBE in with_parts and not is_printed)


@lru_cache(16)
def _drops_developers(template: str, special: str) -> bool:
    """Whether a template has no text for turns of OpenAI's newer name for the system, or fails."""
    content = _content(_PROBE, _forms_of(template, special))
    turns = [{"role": _DEVELOPER, "content": content}, {"role": "user", "content": content}]
    return _probed(template, special, turns).count(_PROBE) < 2


def _probed(template: str, special: str, turns: list[Turn]) -> str:
    """Text of a conversation, empty if the template has none for it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    arguments: dict[str, Any] = {"conversations": [turns], "chat_template": template}
    with contextlib.suppress(Exception):  # whatever a template does with it
        texts: Any = render_jinja_template(
            **arguments, **json.loads(special), add_generation_prompt=True
        )
        return texts[0][0]
    return ""


def _system_for(role: str) -> str:
    return "system" if role == _DEVELOPER else role


def _content(content: Any, forms: Forms) -> Any:
    if isinstance(content, list) and not forms.parts:
        return "\n".join(part["text"] for part in content)
    if isinstance(content, str) and forms.parts and not forms.texts:
        return [{"type": "text", "text": content}]
    return content


def render_turns(turns: list[Turn], render: Callable[[list[Turn]], str]) -> str:
    """Render turns. A template that fails at calls gets these in other forms, too."""
    try:
        return render(turns)
    except Exception:
        if not any("tool_calls" in turn for turn in turns):
            raise
        for forms in ((_with_texts,), (_with_short_ids,), (_with_texts, _with_short_ids)):
            others = turns
            for form in forms:
                others = [form(turn) for turn in others]
            with contextlib.suppress(Exception):
                return render(others)
        raise


def _with_texts(turn: Turn) -> Turn:
    """A turn whose calls have their arguments as JSON texts."""

    def with_text(call: Turn) -> Turn:
        function = call["function"]
        text = json.dumps(function["arguments"], ensure_ascii=False)
        return call | {"function": function | {"arguments": text}}

    if "tool_calls" not in turn:
        return turn
    return turn | {"tool_calls": [*map(with_text, turn["tool_calls"])]}


def _with_short_ids(turn: Turn) -> Turn:
    """A turn whose calls, or the one that it answers, have short ids: the same for the same."""

    def short(own: str) -> str:
        return hashlib.sha256(own.encode()).hexdigest()[:_SHORT_ID]

    changed = dict(turn)
    if "tool_calls" in turn:
        calls = turn["tool_calls"]
        changed["tool_calls"] = [call | {"id": short(call.get("id", ""))} for call in calls]
    if "tool_call_id" in turn:
        changed["tool_call_id"] = short(turn["tool_call_id"])
    return changed
