"""Adapters loaded and unloaded over HTTP: vLLM's two calls, as controllers of it make them.

Their rights, scopes and locations are those of LoadAdapter and UnloadAdapter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Coroutine
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from lora_runtime import AdapterExistsError, AdapterMissingError, UnknownAdapterError

from ...auth.rules import Right
from ...errors import cut
from ...operations.adapter_changes import check_length
from .. import errors
from ..bodies.unknown import UNKNOWN
from ..calls import Call
from ..errors import HttpError

_UNLOAD_WAIT_S = 25
"""Seconds that running requests get: less than the 30 after which controllers hang up."""
_FIELDS = {"adapter_id": "lora_name", "path": "lora_path", "source": "lora_path"}
_LOAD_FIELDS = {"lora_name", "lora_path", "load_inplace", "is_3d_lora_weight"}
_UNLOAD_FIELDS = {"lora_name", "lora_int_id"}
"""Fields of vLLM's; a tensor's own shape says what `is_3d_lora_weight` would, and an adapter has no
number beside its name."""
_USER_INPUT, _NOT_FOUND = "InvalidUserInput", "NotFoundError"
"""Types of vLLM's errors."""


class _LoraError(HttpError):
    """Refusal in vLLM's words, of the type that it gives it."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(status, "unknown_adapter" if status == 404 else "invalid_request", message)


async def load(call: Call) -> Response:
    """Load an adapter: `lora_name`, `lora_path`, and `load_inplace` for one that is there."""
    return await _answer(call, _load(call))


async def unload(call: Call) -> Response:
    """Unload the adapter `lora_name`; new requests find it no more while running ones end."""
    return await _answer(call, _unload(call))


async def _load(call: Call) -> str:
    body = await _body(call, _LOAD_FIELDS)
    name, path = _text(body, "lora_name"), _text(body, "lora_path")
    in_place = body.get("load_inplace", False)
    if not isinstance(in_place, bool):
        raise _LoraError(400, _USER_INPUT, "'load_inplace' must be true or false.")
    _allow(call, name)
    if not name or not path:
        raise _LoraError(400, _USER_INPUT, "Both 'lora_name' and 'lora_path' must be provided.")
    if name in call.parts.names.given:
        raise _LoraError(
            400,
            _USER_INPUT,
            f"The lora adapter '{name}' conflicts with a served base model.",
        )
    try:
        await call.parts.changes.load_named(name, path, call.who, replace=in_place)
    except AdapterMissingError:
        raise _LoraError(
            404,
            _NOT_FOUND,
            f"Loading lora {name} failed: No adapter found for {cut(path)}",
        ) from None
    except AdapterExistsError:
        raise _LoraError(
            400,
            _USER_INPUT,
            f"The lora adapter '{name}' has already been loaded. If you want to load the "
            "adapter in place, set 'load_inplace' to True.",
        ) from None
    return f"Success: LoRA adapter '{name}' added successfully."


async def _unload(call: Call) -> str:
    name = _text(await _body(call, _UNLOAD_FIELDS), "lora_name")
    _allow(call, name)
    if not name:
        raise _LoraError(
            400, _USER_INPUT, "'lora_name' needs to be provided to unload a LoRA adapter."
        )
    try:
        await call.parts.changes.unload(name, _UNLOAD_WAIT_S, call.who)
    except UnknownAdapterError:
        raise _LoraError(404, _NOT_FOUND, f"The lora adapter '{name}' cannot be found.") from None
    return f"Success: LoRA adapter '{name}' removed successfully."


async def _body(call: Call, fields: Collection[str]) -> dict[str, Any]:
    body = await call.json()
    UNKNOWN.note(call.route, [name for name in body if name not in fields])
    return body


def _allow(call: Call, name: str) -> None:
    check_length(name)
    call.adapter = name
    call.allow(Right.ADMIN, [name] if name else ())


def _text(body: dict[str, Any], field: str) -> str:
    """Give a text field, empty where there is none."""
    if not isinstance(value := body.get(field, ""), str):
        raise _LoraError(400, _USER_INPUT, f"'{field}' must be a string.")
    return value


async def _answer(call: Call, work: Coroutine[Any, Any, str]) -> Response:
    """Answer with the words that `work` gives, or with its error in both of vLLM's forms.

    Older ones have the error's fields at the top, where controllers still look for them.
    """
    try:
        return PlainTextResponse(await work)
    except (asyncio.CancelledError, ClientDisconnect):
        raise
    except BaseException as error:
        kind = {"type": error.kind} if isinstance(error, _LoraError) else {}
        told = errors.response(
            error, call.request_id, _FIELDS, method=call.route, adapter=call.adapter
        )
        found = json.loads(bytes(told.body))["error"] | kind
        body = {"error": found, "object": "error", **found, "code": told.status_code}
        headers = {k: v for k, v in told.headers.items() if not k.startswith("content-")}
        return JSONResponse(body, told.status_code, headers)
