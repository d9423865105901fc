"""The page of models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ....support.http_front import HttpHarness, http_running
from ....support.servers import make_settings
from ....support.tokens import write_tokens


@pytest_asyncio.fixture
async def front(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> AsyncIterator[HttpHarness]:
    tokens = write_tokens(
        tmp_path / "tokens.yaml",
        root={"adapters": ["*"]},
        user={"adapters": ["a0", "a1"]},
        blind={"adapters": ["*"], "read": False},
        admin={"adapters": ["*"], "admin": True},
    )
    settings = make_settings(
        tiny_base, tiny_adapters, auth_file=tokens, served_model_names=["tiny", "org/tiny"]
    )
    async with http_running(settings) as harness:
        yield harness


async def test_models_are_those_in_scope(
    front: HttpHarness, tiny_adapters: dict[str, Path]
) -> None:
    listed = (await front.get("/v1/models", "root")).json()
    assert listed["object"] == "list"
    assert [m["id"] for m in listed["data"]] == ["tiny", "org/tiny", *tiny_adapters]
    base, alias, first, *_ = listed["data"]
    assert alias == base | {"id": "org/tiny"}
    assert (base["parent"], base["object"], base["owned_by"]) == (None, "model", "loramux")
    assert (first["parent"], first["root"]) == ("tiny", str(tiny_adapters["a0"]))
    assert first["max_model_len"] == front.server.app.engine.max_context

    listed = (await front.get("/v1/models", "user")).json()
    assert [m["id"] for m in listed["data"]] == ["a0", "a1"]


async def test_a_model_is_given_as_the_list_has_it(front: HttpHarness) -> None:
    listed = (await front.get("/v1/models", "root")).json()["data"]
    for model in listed:
        assert (await front.get(f"/v1/models/{model['id']}", "root")).json() == model
    unknown = await front.get("/v1/models/nobody", "root")
    error = unknown.json()["error"]
    assert (unknown.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert (await front.get("/v1/models/", "root")).json()["error"]["code"] == "not_found"
    for other, who, status in (("a2", "user", 403), ("tiny", "user", 403), ("a0", "blind", 403)):
        assert (await front.get(f"/v1/models/{other}", who)).status_code == status
    assert (await front.get("/v1/models/a1", "user")).status_code == 200


@pytest.mark.parametrize("model", ["tiny", "org/tiny", ""])
async def test_every_name_of_the_base_is_the_base(front: HttpHarness, model: str) -> None:
    body = {"model": model, "prompt": "a b", "max_tokens": 2, "temperature": 0}
    answer = await front.post("/v1/completions", body, "root")
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "tiny"
    assert (await front.post("/v1/completions", body, "user")).status_code == 403
    if model:
        taken = {"lora_name": model, "lora_path": "x"}
        answer = await front.post("/v1/load_lora_adapter", taken, "admin")
        assert "conflicts with a served base model" in answer.json()["message"]


async def test_an_adapter_of_the_bases_name_is_served_as_what_it_is(
    front: HttpHarness, tiny_adapters: dict[str, Path]
) -> None:
    front.server.app.engine.load_adapter(tiny_adapters["a0"], "tiny")
    body = {"prompt": "a b", "max_tokens": 2, "temperature": 0}
    told = []
    for model in ("tiny", "", "org/tiny"):
        answer = (await front.post("/v1/completions", body | {"model": model}, "root")).json()
        told.append((answer["model"], [one["adapter_id"] for one in answer["adapters"]]))
    assert told == [("tiny", ["tiny"]), ("org/tiny", []), ("org/tiny", [])]
    listed = (await front.get("/v1/models", "root")).json()["data"]
    assert [m["id"] for m in listed].count("tiny") == 1


async def test_models_are_for_those_who_may_read(front: HttpHarness) -> None:
    answer = await front.get("/v1/models", "blind")
    assert answer.status_code == 403
    assert answer.json() == {
        "error": {
            "message": "this token has no read right",
            "type": "permission_error",
            "param": None,
            "code": "not_permitted",
        }
    }
    answer = await front.get("/v1/models")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"
