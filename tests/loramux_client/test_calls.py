"""Every call of both clients against a real server, and their errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from loramux.v1 import inference_pb2
from loramux_client import AsyncClient, CallError, Client

import lora_runtime

from ..support.servers import Harness, make_settings, running

# Tokens that are there when a busy machine gets to them go out as one event: a few may all be.
LONG: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 400, "ignore_eos": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AsyncIterator[Harness]:
    settings = make_settings(tiny_base, tiny_adapters, adapter_roots=[tiny_adapters["a0"].parent])
    async with running(settings) as harness:
        yield harness


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_stream_has_the_unary_text(served: Harness) -> None:
    async with AsyncClient(served.target) as client:
        whole = await client.generate(adapter_id="a1", **LONG)
        events = [event async for event in client.stream(adapter_id="a1", **LONG)]
    assert whole.adapter_id == "a1"
    assert len(events) > 1
    assert "".join(e.text for e in events) == whole.text


async def test_threads_have_the_same(served: Harness) -> None:
    def use() -> tuple[inference_pb2.GenerateResponse, str]:
        request = inference_pb2.GenerateRequest(adapter_id="a1", prompt="hi", max_new_tokens=8)
        with Client(served.target) as client:
            text = "".join(event.text for event in client.stream(request))
            return client.generate(request), text

    whole, text = await asyncio.to_thread(use)
    assert whole.text == text


async def test_a_cancelled_stream_ends_here_and_on_the_server(served: Harness) -> None:
    async with AsyncClient(served.target) as client:
        stream = client.stream(**LONG)
        count = 0
        async for _ in stream:
            count += 1
            stream.cancel()
    assert count == 1
    assert (await served.idle_stats()).running == 0


async def test_an_error_has_what_the_server_says(served: Harness) -> None:
    async with AsyncClient(served.target) as client:
        with pytest.raises(CallError) as caught:
            await client.generate(prompt="hi", top_p=7)
        error = caught.value
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [v.field for v in error.violations] == ["top_p"]
        assert error.request_id in str(error)
        with pytest.raises(CallError) as caught:
            _ = [e async for e in client.stream(prompt="hi", adapter_id="gone")]
        assert (caught.value.resource, caught.value.reason) == ("gone", "UNKNOWN_ADAPTER")


async def test_the_pages_first_example_runs(
    served: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs/guide/client.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    example = example.replace("127.0.0.1:50051", served.target).replace("pirate", "a1")
    await asyncio.to_thread(exec, example, {})
    printed = capsys.readouterr().out
    assert " 32\n" in printed
    assert "StatusCode.NOT_FOUND UNKNOWN_ADAPTER no-such-adapter" in printed


async def test_changes(served: Harness, tiny_adapters: dict[str, Path]) -> None:
    """Every call of `Adapters` and `Server` is made with what it needs."""

    def use() -> list[object]:
        with Client(served.target) as client:
            path = str(tiny_adapters["a7"])
            loaded = client.load_adapter(adapter_id="new", path=path, policy={"weight": 2})
            newer = client.load_adapter(
                adapter_id="new", path=str(tiny_adapters["a6"]), canary_weight=0.5
            )
            assert newer.canary.version != loaded.version == newer.version
            assert client.set_canary("new", 1).version == newer.canary.version
            assert client.rollback_adapter("new").version == loaded.version
            assert client.set_policy("new", pinned=True).adapter.policy.pinned
            assert client.get_adapter("new").adapter_id == "new"
            gone = client.unload_adapter("new", wait_s=1).adapter_id
            assert client.declared_adapters() == []
            return [gone, client.server_info().version, client.status().limits.max_running]

    assert await asyncio.to_thread(use) == ["new", lora_runtime.__version__, 64]
    async with AsyncClient(served.target) as client:
        names = [adapter.adapter_id for adapter in await client.list_adapters()]
        assert names == [f"a{i}" for i in range(8)]
        assert (await client.status()).limits.max_running == 64
