"""Sizes of whole answers, and what is logged of fields that nobody knows."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog

from server.http.bodies.unknown import UnknownFields
from server.http.openai import routes

from ....support.http_front import HttpHarness, http_running
from ....support.servers import make_settings

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hello"}],
    "logprobs": True,
    "top_logprobs": 20,
    "ignore_eos": True,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tiny_base: Path) -> AsyncIterator[HttpHarness]:
    settings = make_settings(tiny_base, max_message_bytes=10_000)
    async with http_running(settings) as harness:
        yield harness


@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_ends_where_no_more_fits(front: HttpHarness) -> None:
    answer = (await front.post("/v1/chat/completions", CHAT)).json()
    tokens = answer["usage"]["completion_tokens"]
    assert 10 < tokens < 100
    assert answer["choices"][0]["finish_reason"] == "length"
    several = (await front.post("/v1/chat/completions", {**CHAT, "n": 2})).json()
    assert 0.8 * tokens < several["usage"]["completion_tokens"] <= tokens

    refused = await front.post("/v1/chat/completions", {**CHAT, "max_completion_tokens": 400})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "max_completion_tokens"
    assert "top_logprobs: the answer may have over" in refused.json()["error"]["message"]
    streamed = await front.post("/v1/chat/completions", {**CHAT, "stream": True, "max_tokens": 150})
    assert streamed.text.count('"top_logprobs"') >= 150


@pytest.mark.asyncio(loop_scope="module")
async def test_prompts_share_what_an_answer_may_have(front: HttpHarness) -> None:
    body = {"prompt": ["a", "b", "c"], "max_tokens": 250}
    refused = await front.post("/v1/completions", body)
    assert refused.json()["error"]["param"] == "max_tokens"
    assert (await front.post("/v1/completions", {**body, "prompt": "a"})).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("prompt", ["x" * 400, [65] * 400])
async def test_echoes_count(front: HttpHarness, prompt: Any) -> None:
    body = {"prompt": prompt, "max_tokens": 1, "echo": True, "seed": 1}
    (choice,) = (await front.post("/v1/completions", body)).json()["choices"]
    streamed = await front.post("/v1/completions", {**body, "stream": True})
    first = json.loads(streamed.text.partition("\n")[0].removeprefix("data: "))["choices"][0]
    assert len(choice["text"]) >= 400
    assert first["text"] == choice["text"]
    for stream in (False, True):
        many = {**body, "prompt": [prompt] * 2, "n": 16, "stream": stream}
        refused = await front.post("/v1/completions", many)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "echo")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_long_answer_is_written_off_the_event_loop(
    front: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def watched(*args: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return whole(*args)

    whole = routes.whole
    monkeypatch.setattr(routes, "whole", watched)
    short = {"prompt": "hi", "max_tokens": 3, "logprobs": 1, "seed": 1}
    here = (await front.post("/v1/completions", short)).json()
    monkeypatch.setattr(routes, "QUICK_ENTRIES", 1)
    there = (await front.post("/v1/completions", short)).json()
    assert threads == [True, False]
    assert here["choices"][0]["logprobs"] == there["choices"][0]["logprobs"]


def test_unknown_fields_are_logged_once_each_and_not_without_end() -> None:
    fields = UnknownFields()
    with structlog.testing.capture_logs() as lines:
        fields.note("chat", ("a", "b"))
        fields.note("chat", ("b", "c" * 1000))
        fields.note("completion", ("a",))
        fields.note("chat", ("a", "b"))
    assert [line["fields"] for line in lines] == [["a", "b"], ["c" * 64], ["a"]]
    with structlog.testing.capture_logs() as lines:
        for i in range(1000):
            fields.note("chat", (f"x{i}", f"y{i}"))
    assert sum(len(line["fields"]) for line in lines) < 256
