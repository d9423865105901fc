"""Bearer tokens through real channels: who gets in, and to what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from loramux.v1 import adapters_pb2 as pb
from loramux.v1 import inference_pb2, server_pb2
from structlog.testing import capture_logs

from server.auth.tokens import Caller

from ..support.servers import Harness, drain, make_settings, refused, running
from ..support.tokens import bearer, token_of, write_tokens

Code = grpc.StatusCode
SHORT: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 2, "ignore_eos": True}
NOT_TOKENS: dict[str, Any] = {
    "none": None,
    "wrong": (("authorization", "Bearer nonsense"),),
    "empty": (("authorization", "Bearer "),),
    "scheme": (("authorization", f"Basic {token_of('root')}"),),
    "twice": bearer("root") + bearer("root"),
    "elsewhere": (("token", token_of("root")),),
}


@pytest_asyncio.fixture
async def guarded(
    tiny_base: Path, tiny_adapters: dict[str, Path], adapter_root: Path, tmp_path: Path
) -> AsyncIterator[Harness]:
    tokens = write_tokens(
        tmp_path / "tokens.yaml",
        root={"adapters": ["*"], "admin": True},
        user={"adapters": ["a0", "a1"]},
        base_only={"adapters": ["base"], "read": False},
        team={"adapters": ["team-*"], "admin": True},
    )
    settings = make_settings(
        tiny_base, tiny_adapters, adapter_roots=[adapter_root], auth_file=tokens
    )
    async with running(settings) as harness:
        yield harness


def generate(served: Harness, who: str, **fields: Any) -> Any:
    return served.inference.Generate(
        inference_pb2.GenerateRequest(**(SHORT | fields)), metadata=bearer(who)
    )


async def test_what_is_over_a_limit_is_refused_before_its_scope_is_looked_at(
    guarded: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = [{"adapter_id": f"team-{i}"} for i in range(9)]
    await refused(generate(guarded, "user", adapters=outside[:8]), Code.PERMISSION_DENIED)

    def fails(*_: Any) -> None:
        raise AssertionError("it was looked at")

    monkeypatch.setattr(Caller, "may_use", fails)
    error = await refused(generate(guarded, "user", adapters=outside), Code.INVALID_ARGUMENT)
    assert error.details() == "adapters: at most 8 adapters"
    await refused(generate(guarded, "nobody", adapters=outside), Code.UNAUTHENTICATED)


@pytest.mark.parametrize("metadata", NOT_TOKENS.values(), ids=NOT_TOKENS)
async def test_no_call_without_a_token(guarded: Harness, metadata: Any) -> None:
    request = inference_pb2.GenerateRequest(**SHORT)
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    calls = [
        guarded.inference.Generate(request, metadata=metadata),
        drain(guarded.inference.GenerateStream(request, metadata=metadata)),
        guarded.adapters.ListAdapters(pb.ListAdaptersRequest(), metadata=metadata),
        guarded.adapters.UnloadAdapter(pb.UnloadAdapterRequest(adapter_id="a0"), metadata=metadata),
        guarded.server.GetServerInfo(server_pb2.GetServerInfoRequest(), metadata=metadata),
        drain(reflection.ServerReflectionInfo(metadata=metadata)),
    ]
    messages = {(await refused(call, Code.UNAUTHENTICATED)).details() for call in calls}
    assert messages == {"a valid bearer token is needed"}
    assert len(guarded.app.engine.list_adapters()) == 8
    refusals = guarded.app.metrics.registry.get_sample_value
    assert refusals("loramux_calls_refused_total", {"reason": "unauthenticated"}) == len(calls)


async def test_health_is_open_and_reflection_takes_any_token(guarded: Harness) -> None:
    for name in ("", "live"):
        status = await guarded.health.Check(health_pb2.HealthCheckRequest(service=name))
        assert status.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    answers = [
        a async for a in stub.ServerReflectionInfo(iter(asked), metadata=bearer("base_only"))
    ]
    assert "loramux.v1.Inference" in {s.name for s in answers[0].list_services_response.service}


async def test_generate_within_the_scope_only(guarded: Harness) -> None:
    assert (await generate(guarded, "user", adapter_id="a0")).adapter_id == "a0"
    assert (await generate(guarded, "base_only")).text == (await generate(guarded, "root")).text
    stream = guarded.inference.GenerateStream(
        inference_pb2.GenerateRequest(adapter_id="a1", **SHORT), metadata=bearer("user")
    )
    assert sum([len(event.token_ids) async for event in stream]) == 2
    both = [{"adapter_id": "a0"}, {"adapter_id": "a2"}]
    for who, fields, named in (
        ("user", {"adapter_id": "a2"}, "'a2'"),
        ("user", {"adapters": both}, "'a2'"),
        ("user", {}, "base model"),
        ("user", {"adapter_id": "made-up"}, "'made-up'"),
        ("base_only", {"adapter_id": "a0"}, "'a0'"),
    ):
        request = inference_pb2.GenerateRequest(**(SHORT | fields))
        streamed = drain(guarded.inference.GenerateStream(request, metadata=bearer(who)))
        for call in (generate(guarded, who, **fields), streamed):
            assert named in (await refused(call, Code.PERMISSION_DENIED)).details()
    assert (await guarded.idle_stats()).leases == 0


async def test_long_ids_out_of_scope(guarded: Harness) -> None:
    name = "x" * 20_000
    load = pb.LoadAdapterRequest(path="a0", adapter_id=name)
    with capture_logs() as logs:
        for call in (
            generate(guarded, "user", adapter_id=name),
            generate(guarded, "user", adapters=[{"adapter_id": name}]),
            guarded.adapters.LoadAdapter(load, metadata=bearer("team")),
        ):
            error = await refused(call, Code.PERMISSION_DENIED)
            assert f"'{name[:256]}'" in error.details()
        await refused(
            guarded.adapters.LoadAdapter(load, metadata=bearer("root")), Code.INVALID_ARGUMENT
        )
        await refused(generate(guarded, "root", adapter_id=name), Code.INVALID_ARGUMENT)
    assert logs
    assert not any(name[:300] in str(line) for line in logs)


async def test_changes_need_admin_and_scope(guarded: Harness) -> None:
    adapters = guarded.adapters
    calls = [
        (adapters.LoadAdapter, pb.LoadAdapterRequest(path="a0")),
        (adapters.UnloadAdapter, pb.UnloadAdapterRequest(adapter_id="a0")),
        (adapters.RollbackAdapter, pb.RollbackAdapterRequest(adapter_id="a0")),
        (adapters.SetCanary, pb.SetCanaryRequest(adapter_id="a0", weight=1)),
        (adapters.SetPolicy, pb.SetPolicyRequest(adapter_id="a0", policy=pb.Policy())),
    ]
    for who, says in (("user", "no admin right"), ("team", "'a0' is outside")):
        for call, request in calls:
            assert (
                says
                in (
                    await refused(call(request, metadata=bearer(who)), Code.PERMISSION_DENIED)
                ).details()
            )
    everyone = pb.SetPolicyRequest(adapter_id="*", policy=pb.Policy())
    await refused(adapters.SetPolicy(everyone, metadata=bearer("team")), Code.PERMISSION_DENIED)
    loaded = await adapters.LoadAdapter(
        pb.LoadAdapterRequest(path="a3", adapter_id="team-x"), metadata=bearer("team")
    )
    assert loaded.adapter_id == "team-x"
    unload = pb.UnloadAdapterRequest(adapter_id="a7")
    assert (await adapters.UnloadAdapter(unload, metadata=bearer("root"))).adapter_id == "a7"


async def test_lists_show_what_the_caller_may_use(guarded: Harness) -> None:
    async def listed(who: str) -> list[str]:
        page = await guarded.adapters.ListAdapters(pb.ListAdaptersRequest(), metadata=bearer(who))
        assert page.total_size == len(page.adapters)
        return [a.adapter_id for a in page.adapters]

    assert await listed("user") == ["a0", "a1"]
    assert await listed("team") == []
    assert len(await listed("root")) == 8
    get = pb.GetAdapterRequest
    assert (
        await guarded.adapters.GetAdapter(get(adapter_id="a1"), metadata=bearer("user"))
    ).adapter_id == "a1"
    for name in ("a5", "made-up"):  # what is out of scope is not told from what is not there
        call = guarded.adapters.GetAdapter(get(adapter_id=name), metadata=bearer("user"))
        await refused(call, Code.PERMISSION_DENIED)
    for call, request in (
        (guarded.adapters.ListAdapters, pb.ListAdaptersRequest()),
        (guarded.adapters.ListDeclaredAdapters, pb.ListDeclaredAdaptersRequest()),
        (guarded.server.GetServerInfo, server_pb2.GetServerInfoRequest()),
    ):
        await refused(call(request, metadata=bearer("base_only")), Code.PERMISSION_DENIED)


@pytest.mark.parametrize(
    ("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)]
)
async def test_tokens_without_tls_are_warned_of(
    tiny_base: Path, tmp_path: Path, host: str, warned: bool
) -> None:
    tokens = write_tokens(tmp_path / "tokens.yaml", root={"adapters": ["*"]})
    with capture_logs() as logs:
        async with running(make_settings(tiny_base, auth_file=tokens, host=host), load=False):
            pass
    assert any("without TLS" in line["event"] for line in logs) is warned
