"""Health checking, reflection and GetServerInfo, as platforms and tools use them."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from loramux.v1 import inference_pb2, inference_pb2_grpc, server_pb2
from safetensors.torch import load_file

from server.config import Settings

from ..support.engines import break_down, slow_down
from ..support.http2 import stuck_call
from ..support.servers import Harness, free_port, make_settings, refused, running

SERVICES = ["", "loramux.v1.Inference", "loramux.v1.Adapters", "loramux.v1.Server"]
Status = health_pb2.HealthCheckResponse


@asynccontextmanager
async def probed(settings: Settings) -> AsyncIterator[tuple[Harness, health_pb2_grpc.HealthStub]]:
    """A server that is not loaded yet, and its health port."""
    settings = settings.model_copy(update={"health_port": free_port()})
    target = f"127.0.0.1:{settings.health_port}"
    async with (
        running(settings, load=False) as served,
        grpc.aio.insecure_channel(target) as channel,
    ):
        yield served, health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("service", SERVICES)
async def test_serving_only_once_loaded(tiny_base: Path, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    async with probed(make_settings(tiny_base)) as (served, health):
        watch = health.Watch(request)
        assert (await watch.read()).status == Status.NOT_SERVING
        assert (await health.Check(request)).status == Status.NOT_SERVING
        registry = served.app.metrics.registry
        reason = {"reason": "loading_base"}
        assert registry.get_sample_value("loramux_not_ready", reason) == 1
        await served.app.load()
        assert registry.get_sample_value("loramux_not_ready", reason) == 0
        assert registry.get_sample_value("loramux_ready") == 1
        assert (await watch.read()).status == Status.SERVING
        assert (await health.Check(request)).status == Status.SERVING


async def test_live_from_listening_to_the_end_of_draining(tiny_base: Path) -> None:
    async def statuses() -> list[int]:
        checks = [
            health.Check(health_pb2.HealthCheckRequest(service=name)) for name in ("live", "")
        ]
        return [(await check).status for check in checks]

    async with probed(make_settings(tiny_base, drain_s=60)) as (served, health):
        assert await statuses() == [Status.SERVING, Status.NOT_SERVING]
        await served.app.load()
        assert await statuses() == [Status.SERVING, Status.SERVING]
        slow_down(served.app.engine)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.app.port}") as channel:
            stream = inference_pb2_grpc.InferenceStub(channel).GenerateStream(
                inference_pb2.GenerateRequest(prompt="hi", max_new_tokens=100, ignore_eos=True)
            )
            await stream.read()
            stopping = asyncio.ensure_future(served.app.stop())
            await asyncio.sleep(0.1)
            assert await statuses() == [Status.SERVING, Status.NOT_SERVING]
            assert served.app.metrics.registry.get_sample_value("loramux_ready") == 0
            stream.cancel()
            await stopping


async def test_the_serving_port_is_closed_until_the_base_is_loaded(tiny_base: Path) -> None:
    settings = make_settings(tiny_base, port=free_port())
    async with running(settings, load=False) as served:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", settings.port))
        await served.app.load()
        socket.create_connection(("127.0.0.1", settings.port)).close()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="needs IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_every_port_takes_an_ipv6_host(tiny_base: Path, host: str) -> None:
    ports = {"port": free_port(), "health_port": free_port(), "metrics_port": free_port()}
    async with running(make_settings(tiny_base).model_copy(update={"host": host, **ports})):
        for name in ("port", "health_port"):
            async with grpc.aio.insecure_channel(f"[::1]:{ports[name]}") as channel:
                await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=10
                )
        url = f"http://[::1]:{ports['metrics_port']}/metrics"
        assert b"loramux_ready 1.0" in await asyncio.to_thread(_read, url)


async def test_unknown_service(served: Harness) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.health.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection(served: Harness) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="loramux.v1.GenerateRequest"),
    ]
    listed, file = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {s.name for s in listed.list_services_response.service}
    assert {*SERVICES[1:], "grpc.health.v1.Health"} <= names
    assert b"adapter_id" in file.file_descriptor_response.file_descriptor_proto[0]


async def test_server_info_has_the_notes_on_the_base(
    served: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.app.engine._language, "notes", ("its turns end with no end",))
    info = await served.server.GetServerInfo(server_pb2.GetServerInfoRequest())
    assert list(info.notes) == ["its turns end with no end"]


async def state_of(served: Harness) -> int:
    info = await served.server.GetServerInfo(server_pb2.GetServerInfoRequest())
    assert not info.readiness.waiting_for
    return info.readiness.state


async def test_server_info_says_the_state(served: Harness) -> None:
    assert await state_of(served) == server_pb2.SERVER_STATE_READY
    served.app._health.draining()
    assert await state_of(served) == server_pb2.SERVER_STATE_DRAINING


async def test_server_info_of_a_failed_engine(served: Harness) -> None:
    break_down(served.app.engine)
    with pytest.raises(grpc.aio.AioRpcError):
        await served.generate(prompt="hi")
    while await state_of(served) != server_pb2.SERVER_STATE_FAILED:
        await asyncio.sleep(0.01)


async def test_server_info(served: Harness, tiny_base: Path) -> None:
    info = await served.server.GetServerInfo(server_pb2.GetServerInfoRequest())
    expected = served.app.engine.info()
    assert (info.base_model, info.architecture) == (tiny_base.name, "LlamaForCausalLM")
    assert (info.device, info.dtype, info.version) == ("cpu", "float32", expected.version)
    assert dict(info.kernels) == expected.kernels
    assert info.kernels
    assert (info.limits.max_context, info.limits.max_running) == (512, 64)
    assert info.limits.max_message_bytes == 4 << 20
    assert info.memory.kv_cache == expected.memory.kv_cache > 0 == info.memory.total
    assert (info.load.adapters, info.load.running, info.load.leases) == (8, 0, 0)
    stored = load_file(tiny_base / "model.safetensors")
    assert info.num_parameters == sum(t.numel() for t in stored.values())


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


async def test_a_watch_that_may_not_be_written_holds_nothing_up(tiny_base: Path) -> None:
    request = health_pb2.HealthCheckRequest()
    async with probed(make_settings(tiny_base)) as (served, health):
        port = served.app.settings.health_port
        path = "/grpc.health.v1.Health/Watch"
        stuck = await stuck_call(port, path, request.SerializeToString())
        watch = health.Watch(request, timeout=60)
        assert (await watch.read()).status == Status.NOT_SERVING
        await served.app.load()
        assert (await watch.read()).status == Status.SERVING
        served.app._health.draining()
        assert (await watch.read()).status == Status.NOT_SERVING
        assert (await health.Check(request)).status == Status.NOT_SERVING
        await served.app.stop()
        stuck.close()


async def test_services_that_are_not_known(tiny_base: Path) -> None:
    request = health_pb2.HealthCheckRequest(service="elsewhere")
    async with probed(make_settings(tiny_base)) as (_, health):
        await refused(health.Check(request), grpc.StatusCode.NOT_FOUND)
        watch = health.Watch(request, timeout=60)
        assert (await watch.read()).status == Status.SERVICE_UNKNOWN
