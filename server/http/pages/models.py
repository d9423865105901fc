"""Pages of models: the base and the adapters in the caller's scope."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

from starlette.responses import Response

from lora_runtime import Engine, UnknownAdapterError, redact

from ...auth.rules import Right
from ..calls import Call

ONE = "/v1/models/{model}"
_FOLDER = "/v1/models/"
_STARTED = int(time.time())
_SLICE = 64
"""Adapters after which others get the interpreter."""
_PAUSE_S = 1e-4


async def list_models(call: Call) -> Response:
    """List models as OpenAI does, with vLLM's `root`, `parent` and `max_model_len`."""
    call.allow(Right.READ)
    models = await call.read(lambda: list(_models(call)))
    body = b'{"object":"list","data":[' + b",".join(models) + b"]}"
    return Response(body, media_type="application/json")


async def give_model(call: Call) -> Response:
    """Give a model as the list has it."""
    model = call.request.scope["path"].removeprefix(_FOLDER)
    adapter_id = call.parts.names.adapter_of(model)
    call.adapter = adapter_id
    call.allow(Right.READ, [adapter_id])
    body = await call.read(lambda: _adapter(call, adapter_id) if adapter_id else _base(call, model))
    return Response(body, media_type="application/json")


def route_of(path: str) -> str:
    """Path of the route that `path` belongs to: ONE's has a name in it."""
    return ONE if path.startswith(_FOLDER) and path != _FOLDER else path


def _models(call: Call) -> Iterator[bytes]:
    """Give each model as JSON. On a thread: there may be thousands."""
    engine, who = call.parts.engine(), call.who
    if who.may_use(""):
        yield from (_base(call, name) for name in call.parts.names.of_base)
    for number, adapter_id in enumerate(engine.adapter_ids()):
        if number % _SLICE == _SLICE - 1:
            time.sleep(_PAUSE_S)
        if not who.may_use(adapter_id):
            continue
        with contextlib.suppress(UnknownAdapterError):  # unloaded meanwhile
            yield _adapter(call, adapter_id)


def _base(call: Call, name: str) -> bytes:
    engine = call.parts.engine()
    return _model(engine, name, engine.base.name, None, _STARTED)


def _adapter(call: Call, adapter_id: str) -> bytes:
    """Raises UnknownAdapterError."""
    engine = call.parts.engine()
    info = engine.get_adapter(adapter_id)
    parent, created = call.parts.names.base, int(info.loaded_at)
    return _model(engine, adapter_id, redact(info.source), parent, created)


def _model(engine: Engine, name: str, root: str, parent: str | None, created: int) -> bytes:
    told = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "loramux",
        "root": root,
        "parent": parent,
        "max_model_len": engine.max_context,
    }
    return json.dumps(told).encode()
