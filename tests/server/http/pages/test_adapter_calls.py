"""Adapters loaded and unloaded over HTTP, with vLLM's calls."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from loramux.v1 import inference_pb2
from structlog.testing import capture_logs

from ....support.engines import slow_down
from ....support.http_front import HttpHarness
from ....support.tokens import token_of

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def told(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["type"], error["message"]


async def models(front: HttpHarness, who: str = "root") -> dict[str, Any]:
    return {m["id"]: m for m in (await front.get("/v1/models", who)).json()["data"]}


async def test_load_and_unload_as_vllm_answers(front: HttpHarness) -> None:
    loaded = await front.post(LOAD, {"lora_name": "new", "lora_path": "a1"}, "root")
    assert (loaded.status_code, loaded.text) == (
        200,
        "Success: LoRA adapter 'new' added successfully.",
    )
    listed = (await models(front))["new"]
    assert (listed["parent"], Path(listed["root"]).name) == ("tiny", "a1")
    again = await front.post(LOAD, {"lora_name": "new", "lora_path": "a2"}, "root")
    assert told(again) == (
        400,
        "InvalidUserInput",
        "The lora adapter 'new' has already been loaded. If you want to load the adapter in place, "
        "set 'load_inplace' to True.",
    )
    assert Path((await models(front))["new"]["root"]).name == "a1"
    moved = {"lora_name": "new", "lora_path": "a2", "load_inplace": True}
    assert (await front.post(LOAD, moved, "root")).status_code == 200
    assert Path((await models(front))["new"]["root"]).name == "a2"
    gone = await front.post(UNLOAD, {"lora_name": "new", "lora_int_id": None}, "root")
    assert (gone.status_code, gone.text) == (
        200,
        "Success: LoRA adapter 'new' removed successfully.",
    )
    assert "new" not in await models(front)
    assert told(await front.post(UNLOAD, {"lora_name": "new"}, "root")) == (
        404,
        "NotFoundError",
        "The lora adapter 'new' cannot be found.",
    )


async def test_unknown_fields_are_ignored_and_logged(front: HttpHarness) -> None:
    body = {"lora_name": "new", "lora_path": "a1", "is_3d_lora_weight": False, "base_model": "x"}
    with capture_logs() as lines:
        assert (await front.post(LOAD, body, "root")).status_code == 200
    (line,) = [one for one in lines if one["event"] == "unknown fields are ignored"]
    assert line["fields"] == ["base_model"]


BOTH = "Both 'lora_name' and 'lora_path' must be provided."
REFUSED: dict[str, tuple[dict[str, Any], tuple[int, str, str]]] = {
    "nothing": ({}, (400, "InvalidUserInput", BOTH)),
    "no name": ({"lora_path": "a1"}, (400, "InvalidUserInput", BOTH)),
    "no path": ({"lora_name": "new"}, (400, "InvalidUserInput", BOTH)),
    "a number": (
        {"lora_name": 7, "lora_path": "a1"},
        (400, "InvalidUserInput", "'lora_name' must be a string."),
    ),
    "in place": (
        {"lora_name": "new", "lora_path": "a1", "load_inplace": "yes"},
        (400, "InvalidUserInput", "'load_inplace' must be true or false."),
    ),
    "the base": (
        {"lora_name": "tiny", "lora_path": "a1"},
        (400, "InvalidUserInput", "The lora adapter 'tiny' conflicts with a served base model."),
    ),
    "missing": (
        {"lora_name": "new", "lora_path": "a7"},
        (404, "NotFoundError", "Loading lora new failed: No adapter found for a7"),
    ),
    "missing in a store": (
        {"lora_name": "new", "lora_path": "memory://store/a7"},
        (
            404,
            "NotFoundError",
            "Loading lora new failed: No adapter found for memory://store/a7",
        ),
    ),
    "outside": (
        {"lora_name": "new", "lora_path": "/etc"},
        (403, "permission_error", "the path is outside the server's adapter roots"),
    ),
    "by dots": (
        {"lora_name": "new", "lora_path": "../tokens.yaml"},
        (403, "permission_error", "the path is outside the server's adapter roots"),
    ),
    "too long": (
        {"lora_name": "new", "lora_path": "x" * 300 + "/" + "y" * 300},
        (400, "invalid_request_error", "lora_path: cannot be read"),
    ),
    "far too long": (
        {"lora_name": "new", "lora_path": "x" * 5000},
        (400, "invalid_request_error", "lora_path: must have at most 4096 characters"),
    ),
    "a long name": (
        {"lora_name": "x" * 5000, "lora_path": "a1"},
        (400, "invalid_request_error", "lora_name: must have at most 256 characters"),
    ),
    "another's source": (
        {"lora_name": "new", "lora_path": "s3://bucket/a"},
        (403, "permission_error", "the source is outside the server's adapter sources"),
    ),
    "another's hub id": (
        {"lora_name": "new", "lora_path": "their-org/a"},
        (404, "NotFoundError", "Loading lora new failed: No adapter found for their-org/a"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_loaded_is_refused(front: HttpHarness, name: str) -> None:
    body, expected = REFUSED[name]
    answer = await front.post(LOAD, body, "root")
    assert told(answer) == expected
    assert set(await models(front)) == {"tiny", "a0"}
    # As older vLLMs had it, and as controllers still read it.
    flat = answer.json()
    assert {k: flat[k] for k in ("object", "type", "message", "code")} == {
        "object": "error",
        "type": expected[1],
        "message": expected[2],
        "code": expected[0],
    }


async def test_a_broken_adapter_is_no_missing_one(front: HttpHarness, tmp_path: Path) -> None:
    (tmp_path / "root" / "a1" / "adapter_config.json").write_text("{")
    status, _, text = told(await front.post(LOAD, {"lora_name": "n", "lora_path": "a1"}, "root"))
    assert (status, "adapter_config.json" in text, str(tmp_path) in text) == (400, True, False)


async def test_rights_and_scopes_are_those_of_grpc(front: HttpHarness) -> None:
    body = {"lora_name": "new", "lora_path": "a1"}
    for call, fields in ((LOAD, body), (UNLOAD, {"lora_name": "a0"})):
        assert (await front.post(call, fields)).status_code == 401
        assert told(await front.post(call, fields, "user"))[2] == "this token has no admin right"
        status, _, text = told(await front.post(call, fields, "team"))
        assert (status, "outside this token's scope" in text) == (403, True)
    # Whether a name is taken is for those in whose scope it is.
    assert (
        await front.post(LOAD, {"lora_name": "a0", "lora_path": "a1"}, "team")
    ).status_code == 403
    answer = await front.post(LOAD, {"lora_name": "team-1", "lora_path": "a1"}, "team")
    assert answer.status_code == 200


async def test_of_loads_of_one_name_at_once_one_is_taken(front: HttpHarness) -> None:
    bodies = [{"lora_name": "new", "lora_path": f"a{1 + i % 2}"} for i in range(6)]
    answers = await asyncio.gather(*(front.post(LOAD, body, "root") for body in bodies))
    assert sorted(a.status_code for a in answers) == [200, 400, 400, 400, 400, 400]


async def test_an_unload_lets_running_requests_end(front: HttpHarness) -> None:
    server = front.server
    slow_down(server.app.engine)
    request: dict[str, Any] = {
        "adapter_id": "a0",
        "prompt": "hi",
        "max_new_tokens": 40,
        "ignore_eos": True,
    }
    metadata = (("authorization", f"Bearer {token_of('root')}"),)
    message = inference_pb2.GenerateRequest(**request)
    running = aiter(server.inference.GenerateStream(message, metadata=metadata))
    await anext(running)
    unloading = asyncio.ensure_future(front.post(UNLOAD, {"lora_name": "a0"}, "root"))
    assert sum([len(event.token_ids) async for event in running]) == 39
    assert (await unloading).status_code == 200  # 409 if it did not wait
    assert "a0" not in await models(front)
