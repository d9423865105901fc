"""The metrics of a real server on which everything has happened that tests can bring about."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import grpc
import pytest
from loramux.v1 import adapters_pb2, inference_pb2
from prometheus_client.parser import text_string_to_metric_families

from ..support.http_front import HttpHarness, http_running
from ..support.promql import Series
from ..support.servers import free_port, make_settings
from ..support.tokens import bearer, write_tokens


async def scraped(base: Path, adapters: dict[str, Path], folder: Path) -> Series:
    """Series of the page, by the names that samples have."""
    port = free_port()
    settings = make_settings(
        base,
        {name: adapters[name] for name in ("a0", "a1")},
        metrics_port=port,
        max_adapters=1,
        adapter_roots=[adapters["a0"].parent],
        auth_file=write_tokens(
            folder / "tokens.yaml",
            ops={"adapters": ["*"], "admin": True},
            one={"adapters": ["a0"]},
        ),
    )
    async with http_running(settings, port=True) as front:
        await _use(front)
        await front.server.idle_stats()
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
    series: dict[str, list[dict[str, str]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series[sample.name].append(sample.labels)
    return series


async def _use(front: HttpHarness) -> None:
    served = front.server

    async def generate(who: str, **fields: Any) -> None:
        request = inference_pb2.GenerateRequest(**fields)
        await served.inference.Generate(request, metadata=bearer(who) if who else ())

    for adapter_id in ("a0", "a1", "a0", ""):  # one slot: each takes the other's place
        await generate("ops", adapter_id=adapter_id, prompt="hi", max_new_tokens=3)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("", {"prompt": "hi"}),
        ("one", {"prompt": "hi", "adapter_id": "a1"}),
        ("ops", {"prompt": ""}),
    ]
    for who, fields in wrong:
        with pytest.raises(grpc.aio.AioRpcError):
            await generate(who, **fields)
    with pytest.raises(grpc.aio.AioRpcError):
        await served.adapters.LoadAdapter(
            adapters_pb2.LoadAdapterRequest(path=".", adapter_id="bad"), metadata=bearer("ops")
        )
    assert (await front.get("/v1/models", "ops")).status_code == 200


def _get(url: str) -> str:
    with urllib.request.urlopen(url) as response:
        return str(response.read().decode())
