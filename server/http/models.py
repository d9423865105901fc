"""Page of models: the base and the adapters in the caller's scope."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from starlette.responses import Response

from lora_runtime import Engine, UnknownAdapterError, redact

from ..auth.rules import Right
from .calls import Call

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


def _models(call: Call) -> Iterator[bytes]:
    """Give each model as JSON. On a thread: there may be thousands."""
    engine, who = call.parts.engine(), call.who
    base = call.parts.names.base
    if who.may_use(""):
        yield _model(engine, base, engine.base.name, None, _STARTED)
    for number, adapter_id in enumerate(engine.adapter_ids()):
        if number % _SLICE == _SLICE - 1:
            time.sleep(_PAUSE_S)
        if not who.may_use(adapter_id):
            continue
        try:
            info = engine.get_adapter(adapter_id)
        except UnknownAdapterError:  # unloaded meanwhile
            continue
        yield _model(engine, adapter_id, redact(info.source), base, int(info.loaded_at))


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
