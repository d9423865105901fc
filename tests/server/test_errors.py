"""Every error through a real channel: the code, and the google.rpc detail."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from loramux.v1 import adapters_pb2

from lora_runtime import AdapterCapacityError, QueueFullError, UnreadAnswerError
from lora_runtime.requests import unread
from server import errors

from ..support.adapters import edit_config, save_adapter
from ..support.engines import break_down, is_idle, slow_down
from ..support.models import save_base
from ..support.servers import Harness, detail, drain, make_settings, refused, running

Code = grpc.StatusCode
LONG: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 400, "ignore_eos": True}


async def test_unknown_adapter(served: Harness) -> None:
    for call in (
        served.generate(adapter_id="nope", prompt="hi"),
        drain(served.stream(adapter_id="nope", prompt="hi")),
    ):
        info = detail(await refused(call, Code.NOT_FOUND), error_details_pb2.ResourceInfo)
        assert (info.resource_type, info.resource_name) == ("loramux.v1.Adapter", "nope")


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"prompt": ""}, "prompt"),
        ({"token_ids": [1]}, "prompt"),
        ({"prompt": "x" * 600}, "prompt"),
        ({"prompt": "", "token_ids": [999]}, "token_ids"),
        ({"priority": 11}, "priority"),
        ({"adapters": [{"adapter_id": "a0"}] * 2}, "adapters"),
        ({"adapter_id": "a0", "adapters": [{"adapter_id": "a1"}]}, "adapters"),
        ({"adapters": [{}]}, "adapters"),
        ({"adapters": [{"adapter_id": "a0", "weight": float("nan")}]}, "adapters"),
        ({"adapter_id": "x" * 300}, "adapter_id"),
        ({"request_id": "two words"}, "request_id"),
    ],
    ids=lambda v: str(v)[:40],
)
async def test_invalid_fields(served: Harness, fields: dict, names: str) -> None:
    error = await refused(served.generate(**({"prompt": "hi"} | fields)), Code.INVALID_ARGUMENT)
    violations = detail(error, error_details_pb2.BadRequest).field_violations
    assert [v.field for v in violations] == [names]
    assert all(v.description for v in violations)


async def test_several_violations_are_all_named(served: Harness) -> None:
    error = await refused(served.generate(prompt="hi", top_p=2, n=0), Code.INVALID_ARGUMENT)
    fields = {v.field for v in detail(error, error_details_pb2.BadRequest).field_violations}
    assert fields == {"top_p", "n"}


async def test_messages_without_a_template(tmp_path: Path) -> None:
    async with running(make_settings(save_base(tmp_path / "base", chat=False))) as served:
        call = served.generate(messages=[{"role": "user", "content": "hi"}])
        error = await refused(call, Code.INVALID_ARGUMENT)
        assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == "messages"


@asynccontextmanager
async def full(tiny_base: Path) -> AsyncIterator[tuple[Harness, list[Any]]]:
    """A server that has no room, and the streams that take it: one runs, one waits."""
    async with running(make_settings(tiny_base, max_running=1, max_waiting=1)) as served:
        slow_down(served.app.engine)
        streams = [served.stream(**LONG)]
        await streams[0].read()
        streams.append(served.stream(**LONG))
        while served.app.engine.stats().waiting == 0:
            await asyncio.sleep(0.01)
        yield served, streams


async def test_full_queue(tiny_base: Path) -> None:
    async with full(tiny_base) as (served, streams):
        error = await refused(served.generate(prompt="hi"), Code.RESOURCE_EXHAUSTED)
        assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        for stream in streams:
            stream.cancel()
        assert is_idle(await served.idle_stats())


async def test_errors_of_files_have_no_paths(
    served: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret/place")

    monkeypatch.setattr(served.app.engine, "load_adapter", load)
    call = served.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(path="a0"))
    assert "secret" not in (await refused(call, Code.PERMISSION_DENIED)).details()


async def test_adapter_of_another_base(tiny_base: Path, tmp_path: Path) -> None:
    other = save_base(tmp_path / "phi3", "phi3")
    save_adapter(other, tmp_path / "roots" / "foreign", target_modules=["qkv_proj"])
    async with running(make_settings(tiny_base, adapter_roots=[tmp_path / "roots"])) as served:
        request = adapters_pb2.LoadAdapterRequest(path="foreign")
        error = await refused(served.adapters.LoadAdapter(request), Code.FAILED_PRECONDITION)
        assert "qkv_proj" in error.details()
        await refused(served.generate(adapter_id="foreign", prompt="hi"), Code.NOT_FOUND)


async def test_unsupported_adapter(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    edit_config(
        shutil.copytree(tiny_adapters["a0"], tmp_path / "moe"), target_parameters=["experts"]
    )
    async with running(make_settings(tiny_base, adapter_roots=[tmp_path])) as served:
        request = adapters_pb2.LoadAdapterRequest(path="moe")
        error = await refused(served.adapters.LoadAdapter(request), Code.INVALID_ARGUMENT)
        assert "target_parameters" in error.details()


async def test_paths_outside_the_roots(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    root, outside = tmp_path / "root", shutil.copytree(tiny_adapters["a0"], tmp_path / "outside")
    linked = shutil.copytree(outside, root / "linked")
    (linked / "adapter_model.safetensors").unlink()
    (linked / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    (root / "link").symlink_to(outside)
    async with running(make_settings(tiny_base, adapter_roots=[root])) as served:
        for path in (str(outside), "../outside", "link", "linked", "/etc"):
            await refused(
                served.adapters.LoadAdapter(
                    adapters_pb2.LoadAdapterRequest(path=path, adapter_id="x")
                ),
                Code.PERMISSION_DENIED,
            )
    async with running(make_settings(tiny_base)) as served:
        request = adapters_pb2.LoadAdapterRequest(path=str(outside))
        await refused(served.adapters.LoadAdapter(request), Code.PERMISSION_DENIED)


async def test_pinned_adapters_leave_no_slot(
    tiny_base: Path, tiny_adapters: dict[str, Path], adapter_root: Path
) -> None:
    settings = make_settings(
        tiny_base,
        {"a0": tiny_adapters["a0"]},
        adapter_roots=[adapter_root],
        max_adapters=1,
        policies={"a0": {"pinned": True}},
    )
    async with running(settings) as served:
        await refused(
            served.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(path="a1")),
            Code.RESOURCE_EXHAUSTED,
        )


async def test_deadline(served: Harness) -> None:
    slow_down(served.app.engine)
    await refused(
        drain(served.stream(timeout=0.3, adapter_id="a1", **LONG)), Code.DEADLINE_EXCEEDED
    )
    assert is_idle(await served.idle_stats())


async def test_cancellation(served: Harness) -> None:
    slow_down(served.app.engine)
    stream = served.stream(adapter_id="a1", **LONG)
    await stream.read()
    assert served.app.engine.stats().leases == 1
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.read()
    assert await stream.code() is Code.CANCELLED
    unary = asyncio.ensure_future(served.generate(**LONG))
    await asyncio.sleep(0.1)
    unary.cancel()
    assert is_idle(await served.idle_stats())


async def test_message_too_large(tiny_base: Path) -> None:
    async with running(make_settings(tiny_base, max_message_bytes=4096)) as served:
        await refused(served.generate(prompt="x" * 10_000), Code.RESOURCE_EXHAUSTED)


async def test_unavailable_while_draining(tiny_base: Path) -> None:
    async with running(make_settings(tiny_base)) as served:
        served.app.engine.stop_admitting()
        await refused(served.generate(prompt="hi"), Code.UNAVAILABLE)


async def test_a_bad_request_hurts_nobody(served: Harness) -> None:
    good: list[dict[str, Any]] = [
        {"adapter_id": f"a{i}", "prompt": "hello", "max_new_tokens": 20, "ignore_eos": True}
        for i in range(4)
    ]
    alone = [(await served.generate(**fields)).text for fields in good]
    bad: list[dict[str, Any]] = [
        {"adapter_id": "nope", "prompt": "x"},
        {"prompt": ""},
        {"prompt": "x" * 999},
        {"prompt": "x", "top_p": 7},
    ]
    slow_down(served.app.engine)
    calls = [asyncio.ensure_future(served.generate(**fields)) for fields in (*good, *bad)]
    results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    assert [r.text for r in results[:4]] == alone
    assert all(isinstance(r, grpc.aio.AioRpcError) for r in results[4:])


async def test_engine_failure_is_loud(served: Harness) -> None:
    slow_down(served.app.engine, 0.05)
    streams = [served.stream(adapter_id=f"a{i}", **LONG) for i in range(3)]
    for stream in streams:
        await stream.read()
    break_down(served.app.engine)
    for stream in streams:
        error = await refused(drain(stream), Code.INTERNAL)
        assert "device is gone" not in error.details()  # that is for the log
    await refused(served.generate(prompt="hi"), Code.INTERNAL)
    for name in ("", "live", "loramux.v1.Inference", "loramux.v1.Adapters", "loramux.v1.Server"):
        status = await served.health.Check(health_pb2.HealthCheckRequest(service=name))
        assert status.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert served.app.metrics.registry.get_sample_value("loramux_engine_failed") == 1
    assert served.app.engine.stats().leases == 0


async def test_reasons_and_pushback(tiny_base: Path) -> None:
    """What a client needs to tell one refusal of a code from another, and to retry by itself."""
    async with full(tiny_base) as (served, streams):
        no_room = await refused(served.generate(prompt="hi"), Code.RESOURCE_EXHAUSTED)
        streams.pop().cancel()
        while served.app.engine.stats().waiting:
            await asyncio.sleep(0.01)
        unknown = await refused(served.generate(prompt="hi", adapter_id="no"), Code.NOT_FOUND)
        served.app.engine.stop_admitting()
        draining = await refused(served.generate(prompt="hi"), Code.UNAVAILABLE)
        for stream in streams:
            stream.cancel()
    for error, reason, pushback in (
        (no_room, "queue_full", range(1000, 2001)),
        (unknown, "unknown_adapter", None),
        (draining, "draining", None),
    ):
        trailers = dict(error.trailing_metadata())
        assert trailers["loramux-reason"] == reason
        told = trailers.get("grpc-retry-pushback-ms")
        assert told is None if pushback is None else int(str(told)) in pushback
        info = detail(error, error_details_pb2.ErrorInfo)
        assert (info.reason, info.domain) == (reason.upper(), "loramux")
        request = detail(error, error_details_pb2.RequestInfo)
        assert request.request_id == trailers["x-request-id"] != ""


async def test_the_adapters_limit_is_told_from_the_queues(
    tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    settings = make_settings(
        tiny_base, {"a0": tiny_adapters["a0"]}, policies={"a0": {"tokens_per_minute": 20}}
    )
    async with running(settings) as served:

        async def use_up() -> None:
            while True:
                await served.generate(prompt="hello", adapter_id="a0", max_new_tokens=10)

        error = await refused(use_up(), Code.RESOURCE_EXHAUSTED)
    trailers = dict(error.trailing_metadata())
    assert trailers["loramux-reason"] == "adapter_limit"
    assert int(str(trailers["grpc-retry-pushback-ms"])) > 0
    assert detail(error, error_details_pb2.QuotaFailure).violations


async def test_an_answer_that_is_not_read(served: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "REQUEST_BYTES", 1)
    monkeypatch.setattr(unread, "SHARE_BYTES", 1)
    for call in (served.generate(**LONG), drain(served.stream(**LONG))):
        error = await refused(call, Code.RESOURCE_EXHAUSTED)
        trailers = dict(error.trailing_metadata())
        assert (trailers["loramux-reason"], trailers["grpc-retry-pushback-ms"]) == ("unread", "-1")
    assert is_idle(await served.idle_stats())


@pytest.mark.parametrize(
    ("refusal", "attempts"),
    [(QueueFullError(1, 0.05), 2), (AdapterCapacityError("no room"), 1), (UnreadAnswerError(), 1)],
    ids=["comes back when told", "does not come back", "does not come back unread"],
)
async def test_clients_retry_as_they_are_told(refusal: Exception, attempts: int) -> None:
    """gRPC's own retries: by the client's policy, the second attempt would come after hours."""
    seen = 0

    async def serve(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        nonlocal seen
        seen += 1
        if seen == 1:
            await errors.abort(context, refusal, "r")
        return b"served"

    policy = {
        "maxAttempts": 3,
        "initialBackoff": "9000s",
        "maxBackoff": "9000s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    }
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    server = grpc.aio.server()
    handlers: dict[str, Any] = {"call": grpc.unary_unary_rpc_method_handler(serve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.T", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = (("grpc.service_config", config),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        call: Any = channel.unary_unary("/test.T/call")
        if attempts == 1:
            await refused(call(b"", timeout=60), Code.RESOURCE_EXHAUSTED)
        else:
            assert await call(b"", timeout=60) == b"served"
    await server.stop(grace=None)
    assert seen == attempts
