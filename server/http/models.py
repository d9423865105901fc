"""Page of models: the base and the adapters in the caller's scope."""

from __future__ import annotations

import time
from typing import Any

from starlette.responses import JSONResponse, Response

from lora_runtime import AdapterInfo, Engine, UnknownAdapterError, redact

from ..auth.rules import Right
from .calls import Call

_STARTED = int(time.time())
_SLICE = 64
"""Adapters after which others get the interpreter."""
_PAUSE_S = 1e-4


async def list_models(call: Call) -> Response:
    """List models as OpenAI does, with vLLM's `root`, `parent` and `max_model_len`."""
    call.allow(Right.READ)
    found = await call.parts.threads.reading.run(lambda: _models(call))
    return JSONResponse({"object": "list", "data": found})


def _models(call: Call) -> list[dict[str, Any]]:
    engine, who = call.parts.engine(), call.who
    base = call.parts.names.base
    models = []
    if who.may_use(""):
        models.append(_model(engine, base, engine.base.name, None, _STARTED))
    for number, adapter_id in enumerate(engine.adapter_ids()):
        if number % _SLICE == _SLICE - 1:
            time.sleep(_PAUSE_S)
        if not who.may_use(adapter_id):
            continue
        try:
            info = engine.get_adapter(adapter_id)
        except UnknownAdapterError:  # unloaded meanwhile
            continue
        models.append(_adapter(engine, base, info))
    return models


def _adapter(engine: Engine, base: str, info: AdapterInfo) -> dict[str, Any]:
    return _model(engine, info.adapter_id, redact(info.source), base, int(info.loaded_at))


def _model(
    engine: Engine, name: str, root: str, parent: str | None, created: int
) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "loramux",
        "root": root,
        "parent": parent,
        "max_model_len": engine.max_context,
    }
