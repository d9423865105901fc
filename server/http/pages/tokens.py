"""Pages of tokens: /tokenize and /detokenize, in vLLM's forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from starlette.responses import JSONResponse, Response

from lora_runtime import InvalidRequestError, PromptTokens, Request

from ...auth.rules import Right
from ..calls import Call
from ..openai.requests.body import read
from ..openai.requests.fields import CHAT, COMPLETION

T = TypeVar("T", bool, str, list)


async def tokenize(call: Call) -> Response:
    """Tokenize a text or a conversation as the model's adapter would have it."""
    body = await call.json()
    with_names = _taken(body, "return_token_strs", False)
    is_chat = "messages" in body
    add_special_tokens = is_chat or _taken(body, "add_special_tokens", True)
    request = _request(call, body, is_chat)

    def answer(found: PromptTokens) -> Response:
        told = {
            "count": len(found.token_ids),
            "max_model_len": call.parts.engine().max_context,
            "tokens": found.token_ids,
            "token_strs": found.names() if with_names else None,
        }
        return JSONResponse(told)

    return await call.tokenize(request, answer, add_special_tokens)


async def detokenize(call: Call) -> Response:
    """Give the text of tokens as the model's adapter would read it."""
    body = await call.json()
    ids = _taken(body, "tokens", [])
    if not all(type(token_id) is int for token_id in ids):
        raise InvalidRequestError.of("tokens", "must be a list of token ids")
    adapter_id = call.parts.names.adapter_of(_taken(body, "model", ""))
    if not ids:
        call.allow(Right.USE, [adapter_id])
        return JSONResponse({"prompt": ""})
    call.fields = {"token_ids": "tokens"}
    request = Request(token_ids=tuple(ids), adapter_id=adapter_id, request_id=call.request_id)
    return await call.tokenize(request, lambda found: JSONResponse({"prompt": found.text()}))


def _request(call: Call, body: Mapping[str, Any], is_chat: bool) -> Request:
    """Read a body that names what completions and chats name, too. Raises InvalidRequestError."""
    engine = call.parts.engine()
    found = read(CHAT if is_chat else COMPLETION, body, engine.request_limits, engine.max_context)
    call.fields = found.names
    if len(found.requests) > 1:
        raise InvalidRequestError.of("prompt", "must be a single text, or list of token ids")
    adapter_id = call.parts.names.adapter_of(found.options.model)
    return replace(found.requests[0], adapter_id=adapter_id, request_id=call.request_id)


def _taken(body: dict[str, Any], name: str, default: T) -> T:
    """Take a field out of a body. Raises InvalidRequestError if it is of another kind."""
    value = body.pop(name, None)
    if value is None:
        return default
    if type(value) is not type(default):
        kinds = {bool: "true or false", str: "a text", list: "a list of token ids"}
        raise InvalidRequestError.of(name, f"must be {kinds[type(default)]}")
    return value
