"""JSON schemas of the pages about the server, its models, and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_IDS = {"type": "array", "items": _COUNT}
_OR_NULL = {"type": ["string", "null"]}
ERROR = _object(error=_object(message=_TEXT, type=_TEXT, param=_OR_NULL, code=_TEXT))
STATUS = _object(status=_TEXT)
STATUS_REPORT = {"type": "object", "description": "ServerStatus of server.proto, as JSON."}
ADAPTERS = {
    **_object(adapters={"type": "array", "items": {"type": "object"}}),
    "description": "ListAdaptersResponse of adapters.proto, as JSON, without modules.",
}
ADAPTERS_QUERY: Mapping[str, Schema] = {
    "page_size": {**_COUNT, "maximum": 1000},
    "page_token": _TEXT,
}
VERSION = _object(version=_TEXT)
MODEL = _object(
    id=_TEXT,
    object={"const": "model"},
    created=_COUNT,
    owned_by=_TEXT,
    root=_TEXT,
    parent=_OR_NULL,
    max_model_len=_COUNT,
)
MODELS = _object(object={"const": "list"}, data={"type": "array", "items": MODEL})
TOKENIZE = {
    "type": "object",
    "properties": {
        "model": _TEXT,
        "prompt": _TEXT,
        "messages": {"type": "array", "items": {"type": "object"}},
        "add_special_tokens": {"type": "boolean"},
        "return_token_strs": {"type": "boolean"},
    },
}
TOKENS = _object(
    count=_COUNT,
    max_model_len=_COUNT,
    tokens=_IDS,
    token_strs={"type": ["array", "null"], "items": _TEXT},
)
DETOKENIZE = {
    "type": "object",
    "required": ["tokens"],
    "properties": {"model": _TEXT, "tokens": _IDS},
}
PROMPT = _object(prompt=_TEXT)
LOAD = {
    "type": "object",
    "required": ["lora_name", "lora_path"],
    "properties": {
        "lora_name": _TEXT,
        "lora_path": _TEXT,
        "load_inplace": {"type": "boolean"},
    },
}
UNLOAD = {"type": "object", "required": ["lora_name"], "properties": {"lora_name": _TEXT}}
