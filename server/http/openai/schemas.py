"""JSON schemas of completions and chats: of what may be sent, made from the table of fields, and of
what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .requests.fields import Form
from .requests.kinds import Field, Refused, Unused, list_of

Schema = Mapping[str, Any]


def body_schema(form: Form) -> Schema:
    """Make the schema of a form's body."""
    return {
        "type": "object",
        "required": [form.input],
        "properties": {one.name: _property(one) for one in form.fields},
    }


def _property(field: Field | Refused | Unused) -> Schema:
    if isinstance(field, Field):
        return {"anyOf": [field.kind.schema, {"type": "null"}]}
    if isinstance(field, Refused):
        return {"enum": [*field.neutral, None], "description": "Not served."}
    return {"description": "Without effect."}


def _object(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
    }


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT, _COUNT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}
_IDS = list_of(_COUNT)
_USAGE = _object(
    dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _COUNT),
    prompt_tokens_details=_object({"cached_tokens": _COUNT}),
)
_TIMINGS = _object(dict.fromkeys(("queue_s", "prefill_s", "decode_s"), _NUMBER))
_ADAPTER = _object({"adapter_id": _TEXT, "version": _TEXT, "weight": _NUMBER})
_LOGPROBS = _object(
    {
        "tokens": list_of(_TEXT),
        "token_logprobs": list_of(_NUMBER),
        "top_logprobs": list_of({"type": "object", "additionalProperties": _NUMBER}),
        "text_offset": _IDS,
    }
)
_TOKEN = {"token": _TEXT, "logprob": _NUMBER, "bytes": _IDS}
_CHAT_LOGPROBS = _object(
    {"content": list_of(_object({**_TOKEN, "top_logprobs": list_of(_object(_TOKEN))}))}
)
_CALL = _object(
    {
        "id": _TEXT,
        "type": {"const": "function"},
        "function": _object({"name": _TEXT, "arguments": _TEXT}),
    }
)
_MESSAGE = _object(
    {"role": {"const": "assistant"}, "content": _or_null(_TEXT), "refusal": {"type": "null"}},
    reasoning_content=_TEXT,
    reasoning=_TEXT,
    tool_calls=list_of(_CALL),
)


def _answer(kind: str, logprobs: Schema, reasons: tuple[str, ...], said: Schema) -> Schema:
    choice = _object(
        {
            "index": _COUNT,
            **said,
            "logprobs": _or_null(logprobs),
            "finish_reason": {"enum": list(reasons)},
            "stop_reason": {"type": ["string", "integer", "null"]},
            "timings": _TIMINGS,
        },
        token_ids=_IDS,
        prompt_token_ids=_IDS,
    )
    return _object(
        {
            "id": _TEXT,
            "object": {"const": kind},
            "created": _COUNT,
            "model": _TEXT,
            "choices": list_of(choice),
            "usage": _USAGE,
            "adapters": list_of(_ADAPTER),
        },
        prompt_token_ids=_IDS,
    )


COMPLETION_ANSWER = _answer("text_completion", _LOGPROBS, ("stop", "length"), {"text": _TEXT})
CHAT_ANSWER = _answer(
    "chat.completion", _CHAT_LOGPROBS, ("stop", "length", "tool_calls"), {"message": _MESSAGE}
)
