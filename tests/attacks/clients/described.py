"""Hooks of schemathesis: requests with few fields, of which the engine takes many, and short answers."""

from __future__ import annotations

import json
import random
from typing import Any

import schemathesis

FIELDS = 3
"""Fields of a request beside what is to be read: a wrong one among thirty hides the others."""
TOKENS = 8


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict) or not body.keys() & {"prompt", "messages"}:
        return body
    needed = {name: body[name] for name in ("prompt", "messages") if name in body}
    others = sorted(body.keys() - needed.keys())
    choice = random.Random(json.dumps(body, default=str, sort_keys=True))
    kept = {name: body[name] for name in choice.sample(others, min(FIELDS, len(others)))}
    return needed | kept | {"max_tokens": _short(kept.get("max_tokens", TOKENS))}


def _short(value: Any) -> Any:
    is_long = isinstance(value, int | float) and value > TOKENS
    return TOKENS if is_long else value
