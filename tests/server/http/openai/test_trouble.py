"""What goes wrong in a call: refusals that are tried again, ends in mid-stream, clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from lora_runtime import EngineObserver, QueueFullError, RequestRecord
from lora_runtime.requests import unread

from ....support.engines import HangingSteps, break_down, is_idle, slow_down
from ....support.http_front import HttpHarness, http_running
from ....support.servers import make_settings

BODY: dict[str, Any] = {"prompt": "hello", "max_tokens": 400, "ignore_eos": True, "stream": True}


@pytest_asyncio.fixture
async def front(tiny_base: Path) -> AsyncIterator[HttpHarness]:
    settings = make_settings(tiny_base, max_waiting=8)
    async with http_running(settings, port=True) as harness:
        yield harness


class Ends(EngineObserver):
    """How requests ended."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def on_request_finished(self, record: RequestRecord) -> None:
        self.outcomes.append(record.outcome)


def client_of(front: HttpHarness, retries: int = 0) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=retries)


async def read_all(stream: Any) -> None:
    async for _ in stream:
        pass


async def test_a_full_queue_is_tried_again_when_it_was_said(
    front: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = front.server.app.engine
    submit = engine.submit_at_once
    refused: list[Any] = []

    def full_twice(request: Any) -> Any:
        if len(refused) < 2:
            refused.append(request)
            raise QueueFullError(8, 0.02)
        return submit(request)

    monkeypatch.setattr(engine, "submit_at_once", full_twice)
    async with client_of(front, retries=2) as client:
        answer = await client.completions.create(model="", prompt="hello", max_tokens=2)
    assert answer.usage is not None
    assert len(refused) == 2

    refused.clear()
    async with client_of(front) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.completions.create(model="", prompt="hello", max_tokens=2, stream=True)
    assert 20 <= int(caught.value.response.headers["retry-after-ms"]) <= 40
    assert caught.value.code == "queue_full"


async def test_a_place_that_is_missing_refuses_all_prompts(front: HttpHarness) -> None:
    engine = front.server.app.engine
    steps = HangingSteps(engine)
    prompts = {**BODY, "prompt": ["hello"] * 100, "stream": False}
    try:
        answer = await front.post("/v1/completions", prompts)
    finally:
        steps.open.set()  # else the engine has no end either
    assert answer.status_code == 429
    assert is_idle(await front.server.idle_stats())


async def test_a_failure_before_the_first_token_has_a_status(front: HttpHarness) -> None:
    break_down(front.server.app.engine)
    answer = await front.post("/v1/completions", BODY)
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "the server failed to serve this request",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }


async def test_a_failure_in_mid_stream_is_an_event(front: HttpHarness) -> None:
    engine = front.server.app.engine
    slow_down(engine)
    async with front.client.stream("POST", "/v1/completions", json=BODY) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        await anext(lines)
        break_down(engine)
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "internal_error"

    async with client_of(front) as client:
        with pytest.raises(openai.APIStatusError):  # there is no engine any more
            await client.completions.create(model="", prompt="hello")


async def test_openais_client_raises_what_it_is_told_in_mid_stream(front: HttpHarness) -> None:
    slow_down(front.server.app.engine)
    async with client_of(front) as client:
        stream = await client.chat.completions.create(
            model="",
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            extra_body={"ignore_eos": True},
        )
        await anext(stream)
        break_down(front.server.app.engine)
        with pytest.raises(openai.APIError, match="failed to serve"):
            await read_all(stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["hello", ["hello", "so"]])
async def test_a_client_that_leaves_leaves_nothing(
    front: HttpHarness, stream: bool, prompt: Any
) -> None:
    engine = front.server.app.engine
    slow_down(engine, 0.1)  # it would take longer than it is waited for
    body = {**BODY, "prompt": prompt, "stream": stream}
    call = asyncio.create_task(front.post("/v1/completions", body))
    while not engine.stats().running:
        assert not call.done(), call
        await asyncio.sleep(0.005)
    call.cancel()
    assert is_idle(await front.server.idle_stats())


async def test_what_nobody_reads_is_bounded(
    front: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "REQUEST_BYTES", 20_000)
    ended = Ends()
    front.server.app.engine.add_observer(ended)
    host, port = front.url.removeprefix("http://").split(":")
    _reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    body = json.dumps({**BODY, "n": 16, "logprobs": 20, "max_tokens": 500}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    while not ended.outcomes:
        await asyncio.sleep(0.005)
    assert ended.outcomes == ["cancelled"]
    assert is_idle(await front.server.idle_stats())
    writer.close()
