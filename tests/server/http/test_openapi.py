"""The description of the API: every route, every field of the tables, and answers as it says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from server.http.app import ROUTES
from server.http.openai.requests.fields import CHAT, COMPLETION
from server.http.openapi import described
from tests.support.http_front import HttpHarness, http_running
from tests.support.servers import make_settings

DESCRIBED = described(ROUTES)
HELLO = [{"role": "user", "content": "Hello"}]
CALLS: dict[str, tuple[str, Mapping[str, Any] | None]] = {
    "health": ("/health", None),
    "live": ("/live", None),
    "version": ("/version", None),
    "models": ("/v1/models", None),
    "tokens": ("/tokenize", {"prompt": "Hello"}),
    "tokens and their names": ("/tokenize", {"prompt": "Hello", "return_token_strs": True}),
    "a text": ("/detokenize", {"tokens": [5, 6]}),
    "a completion": ("/v1/completions", {"prompt": "Hello"}),
    "a completion with all": (
        "/v1/completions",
        {"model": "good", "prompt": [5], "logprobs": 2, "n": 2, "return_token_ids": True},
    ),
    "a chat": ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 4}),
    "a chat with all": (
        "/v1/chat/completions",
        {"messages": HELLO, "max_tokens": 4, "logprobs": True, "top_logprobs": 2, "n": 2},
    ),
    "a refusal": ("/v1/completions", {"prompt": "Hello", "temperature": -1}),
    "a name that is not known": ("/v1/completions", {"prompt": "Hello", "model": "nobody"}),
    "adapters": ("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/nowhere"}),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def front(tiny_base: Path, tiny_adapters: Mapping[str, Path]) -> AsyncIterator[HttpHarness]:
    adapters = {"good": next(iter(tiny_adapters.values()))}
    async with http_running(make_settings(tiny_base, adapters)) as front:
        yield front


def test_every_route_is_described() -> None:
    for route in ROUTES:
        operation = DESCRIBED["paths"][route.path][route.method.lower()]
        assert operation["summary"].endswith(".")
        assert ("requestBody" in operation) is (route.method == "POST")
        assert bool(operation["security"]) is not route.is_open
    names = [one["operationId"] for path in DESCRIBED["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("form", [COMPLETION, CHAT], ids=lambda form: form.name)
def test_every_field_of_the_table_is_described(form: Any) -> None:
    body = _body(f"/v1/{'chat/' if form is CHAT else ''}completions")
    assert body["properties"].keys() == form.by_name.keys()
    assert body["required"] == [form.input]


def test_schemas_are_schemas() -> None:
    for route in ROUTES:
        for schema in (route.body, route.answer):
            Draft202012Validator.check_schema(schema or {})


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.asyncio(loop_scope="module")
async def test_answers_are_as_described(front: HttpHarness, name: str) -> None:
    path, body = CALLS[name]
    answer = await (front.get(path) if body is None else front.post(path, body))
    operation = DESCRIBED["paths"][path]["get" if body is None else "post"]
    found = operation["responses"].get(str(answer.status_code), operation["responses"]["default"])
    schema = found["content"]["application/json"]["schema"]
    Draft202012Validator(schema | {"components": DESCRIBED["components"]}).validate(answer.json())


@pytest.mark.asyncio(loop_scope="module")
async def test_it_is_served(front: HttpHarness) -> None:
    answer = await front.get("/openapi.json")
    assert answer.json()["paths"].keys() == {*DESCRIBED["paths"], "/openapi.json"}


def _body(path: str) -> Mapping[str, Any]:
    content = DESCRIBED["paths"][path]["post"]["requestBody"]["content"]
    return content["application/json"]["schema"]
