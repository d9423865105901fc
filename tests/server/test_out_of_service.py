"""An adapter that steps fail with, as callers, administrators and metrics see it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from loramux.v1 import adapters_pb2 as pb
from structlog.testing import capture_logs
from typer.testing import CliRunner

from server.cli import app

from ..support.faults import break_version
from ..support.servers import Harness, detail, drain, refused
from ..support.store import current_version

Code = grpc.StatusCode
TEXT = "adapter 'a1' is out of service, load it again: steps with it fail: RuntimeError: injected"
SHORT: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 4, "ignore_eos": True}


async def test_out_of_service(served: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = served.app.engine
    other = served.stream(adapter_id="a2", prompt="hi", max_new_tokens=60, ignore_eos=True)
    await other.read()
    expected = await served.generate(adapter_id="a1", **SHORT)
    with capture_logs() as lines:
        break_version(engine, monkeypatch, current_version(engine, "a1"))
        for _ in range(2):
            error = await refused(
                served.generate(adapter_id="a1", **SHORT), Code.FAILED_PRECONDITION
            )
            assert error.details() == TEXT
            resource = detail(error, error_details_pb2.ResourceInfo)
            assert (resource.resource_name, resource.description) == ("a1", TEXT)
        monkeypatch.undo()
        await drain(other)
    (line,) = [line for line in lines if line["event"] == "adapter out of service"]
    assert (line["adapter"], line["log_level"]) == ("a1", "error")

    info = await served.adapters.GetAdapter(pb.GetAdapterRequest(adapter_id="a1"))
    assert info.state == pb.ADAPTER_STATE_OUT_OF_SERVICE
    assert info.error == "steps with it fail: RuntimeError: injected"
    listed = await served.adapters.ListAdapters(pb.ListAdaptersRequest())
    assert [a.adapter_id for a in listed.adapters if a.state == info.state] == ["a1"]
    table = await asyncio.to_thread(
        CliRunner().invoke, app, ["adapters", "list"], env={"LORAMUX_TARGET": served.target}
    )
    assert f"out_of_service {info.version[:12]}" in table.output
    assert f"  {info.error}\n" in table.output
    assert served.app.metrics.registry.get_sample_value("loramux_out_of_service_adapters") == 1
    health = await served.health.Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    again = await served.adapters.LoadAdapter(pb.LoadAdapterRequest(path="a1", adapter_id="a1"))
    assert (again.version, again.error) == (info.version, "")
    assert (await served.generate(adapter_id="a1", **SHORT)).text == expected.text
    assert served.app.metrics.registry.get_sample_value("loramux_out_of_service_adapters") == 0


async def test_a_canary_that_is_out_of_service(
    served: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = served.app.engine
    await served.adapters.LoadAdapter(
        pb.LoadAdapterRequest(path="a2", adapter_id="a1", canary_weight=0.99)
    )
    canary = engine._store._registry.aliases["a1"].canary
    assert canary is not None
    break_version(engine, monkeypatch, canary)
    answers = [served.generate(adapter_id="a1", **SHORT) for _ in range(12)]
    await asyncio.gather(*answers, return_exceptions=True)
    info = await served.adapters.GetAdapter(pb.GetAdapterRequest(adapter_id="a1"))
    assert info.state == pb.ADAPTER_STATE_DEVICE
    assert info.canary.error == "steps with it fail: RuntimeError: injected"
    assert (await served.generate(adapter_id="a1", **SHORT)).adapter_version == info.version
