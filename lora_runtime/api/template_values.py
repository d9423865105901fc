"""Values that a caller gives to a chat template: JSON, measured before anything is done with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_TEMPLATE_VALUES = 1024
"""Values of one request, those within others among them."""
MAX_TEMPLATE_DEPTH = 16
MAX_TEMPLATE_CHARACTERS = 32 << 10
"""Characters of names and texts together."""
_MAX_INTEGER = 1 << 63
_MAX_TOKEN = 256
"""Characters of what takes a special token's place, which templates write behind each message."""
_RESERVED = {
    *("conversation", "conversations", "messages", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "tokenizer", "tokenizer_kwargs", "padding"),
    *("truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    *("sanitize_control_tokens", "self"),
}
"""What rendering and tokenizing have under these names."""
_LISTS = ("tools", "documents")
"""What rendering itself looks into."""


def wrong_values(values: Mapping[str, Any], is_chat: bool) -> str:
    """Say what is wrong with the values; "" if nothing is."""
    if not isinstance(values, Mapping):
        return "must be JSON values by name"
    if values and not is_chat:
        return "needs messages: nothing else has a template"
    if wrong := _too_much(values):
        return wrong
    for name, value in values.items():
        if name in _RESERVED:
            return f"{name!r} is not the caller's to set"
        if not name.isidentifier():
            return f"{name[:80]!r} is no name that a template could use"
        if name.endswith("_token") and not (isinstance(value, str) and len(value) <= _MAX_TOKEN):
            return f"{name[:80]!r} must be a text of at most {_MAX_TOKEN} characters"
    for name in _LISTS:
        if not _is_list_of_objects(values.get(name)):
            return f"{name!r} must be a list of objects"
    return ""


def _is_list_of_objects(value: Any) -> bool:
    """Whether it is a list of objects, or null."""
    return value is None or (
        isinstance(value, list | tuple) and all(isinstance(one, Mapping) for one in value)
    )


def _too_much(values: Mapping[str, Any]) -> str:
    """Say what is over a limit, or no JSON; nothing is looked at beyond the limits."""
    count = characters = 0
    waiting: list[tuple[Any, int]] = [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, Mapping | list | tuple):
            count += len(value)
            if depth == MAX_TEMPLATE_DEPTH:
                return f"at most {MAX_TEMPLATE_DEPTH} levels of values within values"
            if count > MAX_TEMPLATE_VALUES:
                return f"at most {MAX_TEMPLATE_VALUES} values, those within others among them"
            if isinstance(value, Mapping):
                if not all(isinstance(name, str) for name in value):
                    return "names must be texts"
                characters += sum(map(len, value))
            inner = value.values() if isinstance(value, Mapping) else value
            waiting += [(one, depth + 1) for one in inner]
        elif not _is_number(value):
            return "must be JSON: texts, finite numbers of at most 64 bits, booleans, null, lists, objects"
        if characters > MAX_TEMPLATE_CHARACTERS:
            return f"at most {MAX_TEMPLATE_CHARACTERS} characters of names and texts"
    return ""


def _is_number(value: Any) -> bool:
    """Whether it is a number, true, false or null."""
    if isinstance(value, int):
        return abs(value) <= _MAX_INTEGER
    return value is None or (isinstance(value, float) and math.isfinite(value))


def plain(value: Any) -> Any:
    """The values as dicts and lists of their own."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
