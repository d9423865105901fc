"""An in-process server on the tiny base, with stubs on a real channel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status
from loramux.v1 import adapters_pb2_grpc, inference_pb2, inference_pb2_grpc, server_pb2_grpc

from lora_runtime import EngineStats
from server.app import App
from server.config import Settings

from .bases import opened_once
from .engines import is_idle


@dataclass
class Harness:
    """The server under test and a client's view of it."""

    app: App
    target: str
    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        self.adapters = adapters_pb2_grpc.AdaptersStub(self.channel)
        self.server = server_pb2_grpc.ServerStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def generate(self, **fields: Any) -> inference_pb2.GenerateResponse:
        return await self.inference.Generate(inference_pb2.GenerateRequest(**fields))

    def stream(self, timeout: float | None = None, **fields: Any) -> Any:
        return self.inference.GenerateStream(
            inference_pb2.GenerateRequest(**fields), timeout=timeout
        )

    def declared_states(self) -> dict[str, str]:
        """By name; asked of the app itself, from any thread."""
        return {s.name: s.state for s in self.app._declared_status()}

    async def idle_stats(self, seconds: float = 20) -> EngineStats:
        """The stats once nothing is held, or at the end of `seconds`."""
        for _ in range(int(seconds * 50)):
            if is_idle(self.app.engine.stats()):
                break
            await asyncio.sleep(0.02)
        return self.app.engine.stats()


def make_settings(
    base: Path, adapters: Mapping[str, Path] | None = None, **fields: Any
) -> Settings:
    defaults: dict[str, Any] = {
        "base": str(base),
        "port": 0,
        "http_port": 0,
        "metrics_port": 0,
        "dtype": "float32",
        "kv_cache_bytes": 8 << 20,
        "max_running": 64,
        "max_batch_tokens": 256,
        "drain_s": 0,
        "adapters": {name: str(path) for name, path in (adapters or {}).items()},
    }
    return Settings(**(defaults | fields))


@asynccontextmanager
async def running(settings: Settings, load: bool = True) -> AsyncIterator[Harness]:
    """A server that listens, and serves too unless `load` is False."""
    app = App(settings)
    await app.listen()
    try:
        if load:
            with opened_once():
                await app.load()
        target = f"127.0.0.1:{app.port}"
        async with grpc.aio.insecure_channel(target) as channel:
            yield Harness(app, target, channel)
    finally:
        await app.stop()


class Refusal(Protocol):
    """An AioRpcError as the server sends them: none is without words."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str: ...
    def trailing_metadata(self) -> grpc.aio.Metadata: ...


async def refused(call: Any, code: grpc.StatusCode) -> Refusal:
    """Awaits a call that must fail with this code; the error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value
    return cast(Refusal, caught.value)


async def drain(stream: Any) -> None:
    """Reads a stream to its end."""
    while await stream.read() is not grpc.aio.EOF:
        pass


def detail(error: Any, kind: type[Message]) -> Any:
    """The google.rpc detail of this kind; fails if the error has none."""
    status = rpc_status.from_call(error)
    assert status is not None
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    raise AssertionError(f"no {kind.__name__} in {status}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
