"""What a request has to read and to use: prompts and adapters; and how it is to be streamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_runtime import WeightedAdapter

from .kinds import (
    Kind,
    Wrong,
    in_list,
    list_of,
    to_boolean,
    to_integers,
    to_list,
    to_number,
    to_object,
    to_text,
)

MAX_PROMPTS = 128
"""Prompts of one completion: each is a request of its own."""
Prompt = str | tuple[int, ...]


@dataclass(frozen=True)
class StreamOptions:
    """How usage is told in a stream: by a last chunk without choices, and then by each chunk."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


def to_prompts(value: Any) -> tuple[Prompt, ...]:
    """One or several prompts, each a text or a list of token ids."""
    if isinstance(value, str):
        return (value,)
    entries = to_list(value, "prompts, each a string or a list of token ids")
    if not entries:
        raise Wrong("must not be empty")
    if not isinstance(entries[0], str | list):
        return (to_integers(entries),)
    if len(entries) > MAX_PROMPTS:
        raise Wrong(f"at most {MAX_PROMPTS} prompts")
    return tuple(one if isinstance(one, str) else to_integers(one) for one in entries)


def _most_ids(value: Any) -> int:
    """Count the token ids of the longest prompt, without a look at them."""
    if not isinstance(value, list) or len(value) > MAX_PROMPTS or not value:
        return 0
    if isinstance(value[0], str | list):
        return max((len(one) for one in value if isinstance(one, list)), default=0)
    return len(value)


def to_adapters(value: Any) -> tuple[WeightedAdapter, ...]:
    return in_list(value, "adapters", _adapter)


def _adapter(value: Any) -> WeightedAdapter:
    given = to_object(value)
    if unknown := given.keys() - {"adapter_id", "weight"}:
        raise Wrong(f"has {min(unknown)[:64]!r}, which is neither adapter_id nor weight")
    weight = given.get("weight")
    return WeightedAdapter(
        to_text(given.get("adapter_id")), 1.0 if weight is None else to_number(weight)
    )


def to_stream_options(value: Any) -> StreamOptions:
    given = to_object(value)
    names = ("include_usage", "continuous_usage_stats")
    flags = {name: to_boolean(given[name]) for name in names if given.get(name) is not None}
    # The second alone is no less a wish to be told.
    return StreamOptions(**{"include_usage": flags.get(names[1], False), **flags})


_IDS = list_of({"type": "integer"})
PROMPT = Kind(
    to_prompts,
    {"anyOf": [{"type": "string"}, _IDS, list_of({"anyOf": [{"type": "string"}, _IDS]})]},
    counted="token_ids",
    count=_most_ids,
)
ADAPTERS = Kind(
    to_adapters,
    list_of(
        {
            "type": "object",
            "required": ["adapter_id"],
            "properties": {"adapter_id": {"type": "string"}, "weight": {"type": "number"}},
        }
    ),
    counted="adapters",
)
STREAM_OPTIONS = Kind(
    to_stream_options,
    {
        "type": "object",
        "properties": {
            "include_usage": {"type": "boolean"},
            "continuous_usage_stats": {"type": "boolean"},
        },
    },
)
