"""Values that a caller gives to a chat template: JSON, measured before anything is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .json_values import JsonBounds, is_number, too_much

MAX_TEMPLATE_VALUES = 1024
"""Values of one request, those within others among them."""
MAX_TEMPLATE_DEPTH = 16
MAX_TEMPLATE_CHARACTERS = 32 << 10
"""Characters of names and texts together."""
_BOUNDS = JsonBounds(MAX_TEMPLATE_VALUES, MAX_TEMPLATE_DEPTH, MAX_TEMPLATE_CHARACTERS)
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
    if wrong := too_much(values, _BOUNDS):
        return wrong
    for name, value in values.items():
        if name in _RESERVED:
            return f"{name!r} is not the caller's to set"
        if not name.isidentifier():
            return f"{name[:80]!r} is no name that a template could use"
        if name.endswith("_token") and not (is_number(value) or _is_short(value)):
            return f"{name[:80]!r} must be a text of at most {_MAX_TOKEN} characters"
    for name in _LISTS:
        if not _is_list_of_objects(values.get(name)):
            return f"{name!r} must be a list of objects"
    return ""


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TOKEN


def _is_list_of_objects(value: Any) -> bool:
    """Whether it is a list of objects, or null."""
    return value is None or (
        isinstance(value, list | tuple) and all(isinstance(one, Mapping) for one in value)
    )
