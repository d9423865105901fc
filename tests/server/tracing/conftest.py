"""A traced server, and the collector that gets its spans."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from loramux.v1 import inference_pb2

from ...support.http_front import HttpHarness, as_, http_running
from ...support.otlp import Collector, Sent, collecting
from ...support.servers import Harness, make_settings
from ...support.tokens import bearer, write_tokens


@dataclass
class Traced:
    """A server with two slots and a cold adapter, whose spans are collected; a traceparent."""

    front: HttpHarness
    collector: Collector
    trace_id: str = ""
    parent_id: str = ""
    traceparent: str = ""

    @property
    def server(self) -> Harness:
        return self.front.server

    def begin(self, flags: str = "01") -> Traced:
        """Another trace of a caller's."""
        trace_id, parent = secrets.token_hex(16), secrets.token_hex(8)
        header = f"00-{trace_id}-{parent}-{flags}"
        return Traced(self.front, self.collector, trace_id, parent, header)

    def metadata(self, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        return (*bearer("app"), ("traceparent", self.traceparent), *more)

    async def post(self, path: str, **body: Any) -> Any:
        headers = {**as_("app"), "traceparent": self.traceparent, "x-request-id": "mine"}
        return await self.front.client.post(path, json=body, headers=headers)

    async def generate(self, *more: tuple[str, str], **fields: Any) -> Any:
        message = inference_pb2.GenerateRequest(**fields)
        return await self.server.inference.Generate(message, metadata=self.metadata(*more))

    async def spans(self, count: int) -> list[Sent]:
        return await self.collector.trace(self.trace_id, count)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Traced]:
    directory = tmp_path_factory.mktemp("traced")
    tokens = write_tokens(
        directory / "tokens", app={"adapters": ["*"], "admin": True}, narrow={"adapters": ["x"]}
    )
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,k8s.pod.name=p1")
        settings = make_settings(
            tiny_base,
            {name: tiny_adapters[name] for name in ("a0", "a1", "a2")},
            otlp_traces_endpoint=collector.url,
            auth_file=tokens,
            max_adapters=1,
            adapter_roots=[tiny_adapters["a0"].parent],
            resolve_adapters=True,
        )
        async with http_running(settings) as front:
            yield Traced(front, collector)
