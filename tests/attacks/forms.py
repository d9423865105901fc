"""What callers ask for, and its two forms: the bytes of a GenerateRequest, and OpenAI's JSON.

Lists and texts as long as a message may be are written at no cost: no object is made for an entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from loramux.v1 import inference_pb2 as pb

from . import wire
from .wire import FULL

LONG = FULL - 256
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_NAMES = {"adapter_id": "model", "max_new_tokens": "max_tokens", "token_ids": "prompt"}


@dataclass(frozen=True)
class Many:
    """A list of one value again and again, `size` bytes together in either form."""

    value: Any
    size: int = FULL


@dataclass(frozen=True)
class Long:
    """Text of one piece again and again."""

    piece: str
    size: int = LONG


@dataclass(frozen=True)
class Deep:
    """Values in values, in JSON alone."""

    levels: int
    opened: str = '{"a":'
    closed: str = "}"


@dataclass(frozen=True)
class Asked:
    """A request by the names of a GenerateRequest; values may be Many, Long, or lists of them."""

    fields: Mapping[str, Any]
    raw: bytes | None = None
    """What gRPC has in place of the fields: bytes that no serializer would write."""

    def protobuf(self) -> bytes:
        if self.raw is not None:
            return self.raw
        return encoded(pb.GenerateRequest.DESCRIPTOR, self.fields)

    def http(self, stream: bool = False) -> tuple[str, bytes]:
        """The path and the body."""
        fields = dict(self.fields)
        chats = "messages" in fields
        if "logprobs" in fields and chats:
            fields |= {"logprobs": True, "top_logprobs": fields["logprobs"]}
        if "priority" in fields:
            fields["priority"] = -fields["priority"]  # as vLLM counts it: lower goes first
        if "structured" in fields:
            fields["structured_outputs"] = _structured(fields.pop("structured"))
        fields = {_NAMES.get(name, name): value for name, value in fields.items()}
        fields |= {"stream": stream, "return_token_ids": True}
        return CHAT if chats else COMPLETIONS, written(fields)


def _structured(form: Mapping[str, Any]) -> Mapping[str, Any]:
    """A form that the answer must have, by the names that vLLM gives them."""
    names = {"json_schema": "json", "lark": "grammar"}
    return {names.get(k, k): v["texts"] if k == "choice" else v for k, v in form.items()}


def encoded(message: Any, fields: Mapping[str, Any]) -> bytes:
    """As the message's own serializer would write it."""
    return b"".join(_field(message.fields_by_name[name], v) for name, v in fields.items())


def _field(field: Any, value: Any) -> bytes:
    number, inner = field.number, field.message_type
    if isinstance(value, Many):
        if isinstance(value.value, int):
            return wire.packed(number, value.value, value.size)
        content = encoded(inner, value.value) if inner else value.value
        return wire.repeated(number, content, value.size)
    if isinstance(value, Long):
        return wire.field(number, value.piece * (value.size // len(value.piece.encode())))
    if isinstance(value, list) and any(isinstance(v, dict | Long) for v in value):
        return b"".join(_field(field, v) for v in value)
    if inner and inner is not Struct.DESCRIPTOR:
        return wire.field(number, encoded(inner, value))
    return GetMessageClass(field.containing_type)(**{field.name: value}).SerializeToString()


def written(value: Any) -> bytes:
    """JSON, with numbers that JSON has not (NaN, Infinity) as Python writes them."""
    return _text(value).encode()


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(k)}:{_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, Many):
        one = _text(value.value)
        return "[" + ",".join([one] * max(1, value.size // (len(one.encode()) + 1))) + "]"
    if isinstance(value, Long):
        piece = json.dumps(value.piece, ensure_ascii=False)[1:-1]
        return '"' + piece * (value.size // len(piece.encode())) + '"'
    if isinstance(value, Deep):
        return value.opened * value.levels + "1" + value.closed * value.levels
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return f"{value:.1f}" if abs(value) < 1e16 else repr(value)
    return json.dumps(value, ensure_ascii=False)
