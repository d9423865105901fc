"""What goes out with a call: routers' header, tokens, deadlines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from loramux.v1 import inference_pb2
from loramux_client import AsyncClient, Client

from ..support.stand_in import StandIn, standing_in

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[StandIn]:
    async with standing_in() as stand_in:
        yield stand_in


@pytest.mark.parametrize(
    ("fields", "header"),
    [
        ({"adapter_id": "pirate"}, "pirate"),
        ({}, None),
        ({"adapters": [{"adapter_id": "one", "weight": 0.5}, {"adapter_id": "two"}]}, "one"),
        ({"adapter_id": "Ärger 100 %"}, "%C3%84rger%20100%20%25"),
        ({"adapter_id": "a\u202eb\n"}, "a%E2%80%AEb%0A"),
        ({"adapter_id": "org/name@v1.0-x_y~z:(2)"}, "org/name@v1.0-x_y~z:(2)"),
        ({"adapter_id": "x" * 100_000}, "x" * 256),
    ],
    ids=["adapter", "base", "composition", "not-ascii", "not-printable", "signs", "far-too-long"],
)
async def test_the_routers_header(
    server: StandIn, fields: dict[str, Any], header: str | None
) -> None:
    async with AsyncClient(server.target) as client:
        await client.generate(prompt="hi", **fields)
        assert server.asked[-1].metadata.get("x-adapter-id") == header
        _ = [event async for event in client.stream(prompt="hi", **fields)]
        assert server.asked[-1].metadata.get("x-adapter-id") == header


async def test_the_token_goes_with_every_call_and_more_where_it_is_given(server: StandIn) -> None:
    trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    async with AsyncClient(server.target, token="secret") as client:
        await client.server_info()
        assert server.asked[-1].metadata["authorization"] == "Bearer secret"
        await client.generate(prompt="hi", metadata=[trace, ("x-request-id", "mine")])
    asked = server.asked[-1].metadata
    assert asked["authorization"] == "Bearer secret"
    assert asked["traceparent"] == trace[1]
    assert asked["x-request-id"] == "mine"


async def test_deadlines(server: StandIn) -> None:
    async def left(client: AsyncClient, **options: Any) -> float:
        await client.generate(prompt="hi", **options)
        return server.asked[-1].seconds_left or math.inf

    # Clocks are looked at twice.
    async with AsyncClient(server.target) as client:
        assert 500 < await left(client) < 601
        assert 1 < await left(client, timeout_s=50) < 51
        # gRPC's own "none" is a very long time.
        assert await left(client, timeout_s=math.inf) > 1e6
        await client.server_info()
        assert 1 < (server.asked[-1].seconds_left or math.inf) < 61
    async with AsyncClient(server.target, timeout_s=30) as client:
        assert 1 < await left(client) < 31


async def test_a_request_or_its_fields(server: StandIn) -> None:
    def use() -> str:
        with Client(server.target) as client:
            assert client.generate(inference_pb2.GenerateRequest(prompt="hi")).text == "xxx"
            with pytest.raises(TypeError, match="prompt"):
                client.generate(inference_pb2.GenerateRequest(), prompt="hi")
            return client.generate(prompt="hi").text

    assert await asyncio.to_thread(use) == "xxx"


async def test_lists_have_all_pages(server: StandIn) -> None:
    def use() -> list[str]:
        with Client(server.target) as client:
            return [adapter.adapter_id for adapter in client.list_adapters()]

    async with AsyncClient(server.target) as client:
        found = [adapter.adapter_id for adapter in await client.list_adapters()]
    assert found == await asyncio.to_thread(use) == ["first", "second"]
