"""Calls of controllers of vLLM, as they make them to load and unload adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from ....support.http_front import HttpHarness
from ....support.tokens import token_of
from .test_adapter_calls import LOAD, UNLOAD

GO = {"user-agent": "Go-http-client/1.1", "accept-encoding": "gzip"}
"""What Go's client sends by itself."""


async def as_aibrix(
    front: HttpHarness, path: str, body: dict[str, Any] | None, key: str = "root"
) -> httpx.Response:
    """A call of AIBrix's controller, which gives no content type without a body."""
    headers = GO | {"authorization": f"Bearer {token_of(key)}"}
    if body is None:
        return await front.client.get(path, headers=headers)
    headers["content-type"] = "application/json"
    data = json.dumps(body, separators=(",", ":"))
    return await front.client.post(path, content=data, headers=headers)


async def test_aibrix_brings_an_adapter_to_a_pod_and_takes_it_away(front: HttpHarness) -> None:
    """pkg/controller/modeladapter/lora_client.go at e3e10f9: 200 or 201 is success."""

    async def names() -> set[str]:
        listed = await as_aibrix(front, "/v1/models", None)
        assert listed.status_code == 200
        return {model["id"] for model in listed.json()["data"]}

    path = {"lora_name": "text2sql-lora-1", "lora_path": "a1"}
    assert "text2sql-lora-1" not in await names()
    assert (await as_aibrix(front, LOAD, path)).status_code == 200
    assert "text2sql-lora-1" in await names()  # so that it is not asked for again
    gone = await as_aibrix(front, UNLOAD, {"lora_name": "text2sql-lora-1"})
    assert gone.status_code == 200
    assert "text2sql-lora-1" not in await names()


async def test_aibrix_hub_ids_come_without_their_scheme(
    front: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface://my-org/adapter is sent as my-org/adapter; other URLs as they are."""
    engine, asked = front.server.app.engine, []
    own = engine.load_adapter

    def load(source: Any, adapter_id: str, **options: Any) -> Any:
        asked.append(str(source))
        return own(front.server.app.settings.adapter_roots[0] / "a1", adapter_id, **options)

    monkeypatch.setattr(engine, "load_adapter", load)
    for name, sent in (("x", "my-org/adapter"), ("y", "hf://my-org/adapter@v1")):
        answer = await as_aibrix(front, LOAD, {"lora_name": name, "lora_path": sent})
        assert answer.status_code == 200
    assert asked == ["hf://my-org/adapter", "hf://my-org/adapter@v1"]


async def test_aibrix_runtime_beside_the_server_loads_what_it_fetched(
    front: HttpHarness, tmp_path: Path
) -> None:
    """python/aibrix/aibrix/openapi/engine/vllm.py: the sidecar has /v1/lora_adapter/load itself,
    and makes vLLM's calls with the local path; it tries again from 500 on."""
    fetched = str(tmp_path / "root" / "a2")
    key = {"authorization": f"Bearer {token_of('root')}"}
    body = {"lora_name": "fetched", "lora_path": fetched}
    answer = await front.client.post(LOAD, json=body, headers=key)
    assert answer.status_code == 200
    answer = await front.client.post(LOAD, json=body, headers=key)
    assert answer.status_code == 400
    missing = {"lora_name": "other", "lora_path": fetched + "-not"}
    assert (await front.client.post(LOAD, json=missing, headers=key)).status_code == 404
    gone = {"lora_name": "fetched", "lora_int_id": None}
    assert (await front.client.post(UNLOAD, json=gone, headers=key)).status_code == 200
    assert (await front.client.post(UNLOAD, json=gone, headers=key)).status_code == 404


async def test_production_stack_takes_an_adapter_that_is_there_for_loaded(
    front: HttpHarness, tmp_path: Path
) -> None:
    """operator/internal/controller/loraadapter_controller.go at a6c01db: only 200 is success, and a
    400 whose body says at its top that the adapter has been loaded; it sends a content type with
    GET, too."""
    headers = GO | {
        "content-type": "application/json",
        "authorization": f"Bearer {token_of('root')}",
    }
    path = str(tmp_path / "root" / "a1")
    body = json.dumps({"lora_name": "sql", "lora_path": path}, separators=(",", ":"))
    assert (await front.client.post(LOAD, content=body, headers=headers)).status_code == 200
    again = await front.client.post(LOAD, content=body, headers=headers)
    said = again.json()
    assert (again.status_code, said["type"]) == (400, "InvalidUserInput")
    assert "has already been loaded" in said["message"]
    listed = await front.client.get("/v1/models", headers=headers)
    assert listed.status_code == 200
    (found,) = [m for m in listed.json()["data"] if m["parent"] is not None and m["id"] == "sql"]
    assert (found["root"], found["object"]) == (path, "model")
    assert isinstance(found["created"], int)
    body = json.dumps({"lora_name": "sql"})
    assert (await front.client.post(UNLOAD, content=body, headers=headers)).status_code == 200
