"""Spans of calls over both fronts, as a collector gets them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from loramux.v1 import adapters_pb2, inference_pb2, server_pb2
from loramux_client import AsyncClient

from ...support.http_front import as_
from ...support.otlp import STATUS_ERROR, tree
from ...support.servers import refused
from ...support.tokens import bearer, token_of
from .conftest import Traced

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET = "zebra-4711"
"""A word of each prompt: it must be in no span."""
PHASES: dict[str, Any] = {"queue": {}, "prefill": {}, "decode": {}}
SERVER, INTERNAL = 2, 1


async def test_a_stream_over_grpc(traced: Traced) -> None:
    own = traced.begin()
    message = inference_pb2.GenerateRequest(
        prompt=f"hello {SECRET}", adapter_id="a0", max_new_tokens=3, ignore_eos=True
    )
    metadata = own.metadata(("x-request-id", "mine"))
    stream = own.server.inference.GenerateStream(message, metadata=metadata)
    assert sum([len(answer.token_ids) async for answer in stream]) == 3

    spans = await own.spans(5)
    call, request = "loramux.v1.Inference/GenerateStream", "text_completion a0"
    assert tree(spans) == {call: {request: PHASES}}
    first, second, *phases = spans
    assert first.parent_id == own.parent_id
    assert (first.kind, second.kind) == (SERVER, INTERNAL)
    assert first.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "loramux.v1.Inference",
        "rpc.method": "GenerateStream",
        "rpc.grpc.status_code": 0,
        "loramux.request.id": "mine",
    }
    version = own.server.app.engine.list_adapters()[0].version
    seconds = second.attributes.pop("gen_ai.response.time_to_first_chunk")
    assert second.attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "loramux",
        "gen_ai.request.model": "a0",
        "gen_ai.request.id": "mine",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.choice.count": 1,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": second.attributes["gen_ai.usage.input_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 3,
        "loramux.adapter.ids": ["a0"],
        "loramux.adapter.versions": [version],
        "loramux.outcome": "ok",
    }
    assert second.events == ["first token"]
    queue, prefill, decode = phases
    assert first.begun <= second.begun <= queue.begun <= queue.ended == prefill.begun
    assert prefill.ended == decode.begun <= decode.ended == second.ended
    assert abs(decode.begun - queue.begun - seconds * 1e9) < 1000
    assert first.resource["service.name"] == "mine"
    assert first.resource["k8s.pod.name"] == "p1"


async def test_a_chat_over_http(traced: Traced) -> None:
    own = traced.begin()
    messages = [{"role": "user", "content": SECRET}]
    answer = await own.post("/v1/chat/completions", messages=messages, max_tokens=2)
    assert answer.status_code == 200
    spans = await own.spans(5)
    base = own.server.app.engine.base.name
    call = "POST /v1/chat/completions"
    assert tree(spans) == {call: {f"chat {base}": PHASES}}
    assert spans[0].parent_id == own.parent_id
    assert spans[0].kind == SERVER
    assert spans[0].attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "loramux.request.id": "mine",
    }
    assert spans[1].attributes["gen_ai.operation.name"] == "chat"
    assert spans[1].attributes["loramux.adapter.ids"] == []


async def test_a_stream_over_http_and_several_prompts(traced: Traced) -> None:
    own = traced.begin()
    body = {"prompt": ["one", "two"], "model": "a0", "max_tokens": 2, "stream": True}
    assert (await own.post("/v1/completions", **body)).text.endswith("[DONE]\n\n")
    spans = await own.spans(9)
    root = next(s for s in spans if s.kind == SERVER)
    requests = [s for s in spans if s.parent_id == root.span_id]
    assert {s.attributes["gen_ai.request.id"] for s in requests} == {"mine-0", "mine-1"}
    for request in requests:
        below = sorted(s.name for s in spans if s.parent_id == request.span_id)
        assert below == ["decode", "prefill", "queue"]
    assert max(s.ended for s in spans) == root.ended


async def test_a_cold_adapter_s_load_is_in_the_queue(traced: Traced) -> None:
    message = inference_pb2.GenerateRequest(prompt="x", adapter_id="a1", max_new_tokens=200)
    message.ignore_eos = True
    running = traced.server.inference.GenerateStream(message, metadata=bearer("app"))
    await running.read()  # it has the one slot
    own = traced.begin()
    await own.generate(prompt="x", adapter_id="a2", max_new_tokens=2, ignore_eos=True)
    spans = await own.spans(6)
    loaded = PHASES | {"queue": {"adapter load": {}}}
    assert tree(spans) == {"loramux.v1.Inference/Generate": {"text_completion a2": loaded}}
    load = next(s for s in spans if s.name == "adapter load")
    queue = next(s for s in spans if s.name == "queue")
    assert queue.begun <= load.begun < load.ended == queue.ended
    assert load.attributes == {"loramux.adapter.ids": ["a2"]}


async def test_loads_before_the_queue(traced: Traced) -> None:
    resolved, read = traced.begin(), traced.begin()
    fields = {"prompt": "x", "adapter_id": "a3", "max_new_tokens": 2, "ignore_eos": True}
    await resolved.generate(**fields)  # the resolver finds it
    engine = traced.server.app.engine
    (known,) = (r for r in engine.registrations() if r.adapter_id == "a3")
    engine.unload_adapter("a3", 20)
    engine.register(known)
    await read.generate(**fields)  # known, and not read yet
    for own in (resolved, read):
        spans = await own.spans(6)
        load = next(s for s in spans if s.name == "adapter load")
        request = next(s for s in spans if s.name == "text_completion a3")
        queue = next(s for s in spans if s.name == "queue")
        assert load.parent_id == request.span_id
        assert request.begun <= load.begun < load.ended <= queue.begun
        assert load.attributes == {"loramux.adapter.ids": ["a3"]}


async def test_who_goes_leaves_a_cancelled_request(traced: Traced) -> None:
    own = traced.begin()
    message = inference_pb2.GenerateRequest(prompt="x", max_new_tokens=200, ignore_eos=True)
    stream = own.server.inference.GenerateStream(message, metadata=own.metadata())
    await stream.read()
    stream.cancel()
    call, request, *phases = await own.spans(5)
    assert call.attributes["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]
    assert request.attributes["loramux.outcome"] == "cancelled"
    assert "gen_ai.response.finish_reasons" not in request.attributes
    assert [s.name for s in phases] == ["queue", "prefill", "decode"]
    assert not [s for s in (call, request) if s.status == STATUS_ERROR]


async def test_refusals(traced: Traced) -> None:
    unknown, invalid = traced.begin(), traced.begin()
    await refused(unknown.generate(prompt="x", adapter_id="gone"), grpc.StatusCode.NOT_FOUND)
    call, request, looked_for = await unknown.spans(3)
    assert looked_for.name == "adapter load"
    assert request.attributes["error.type"] == "unknown_adapter"
    assert request.status == STATUS_ERROR
    assert call.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert call.status != STATUS_ERROR  # the caller's doing

    answer = await invalid.post("/v1/completions", prompt=SECRET, temperature=-1)
    assert answer.status_code == 400
    call, request = await invalid.spans(2)
    assert request.attributes["error.type"] == "invalid_request"
    assert call.attributes["http.response.status_code"] == 400


async def test_no_name_fills_a_batch(traced: Traced) -> None:
    own = traced.begin()
    long = own.generate(prompt="x", adapter_id="x" * 60_000)
    await refused(long, grpc.StatusCode.INVALID_ARGUMENT)
    await own.spans(3)
    assert max(map(len, traced.collector.bodies)) < 60_000


async def test_what_has_no_span(traced: Traced) -> None:
    reads, stranger, outside = traced.begin(), traced.begin(), traced.begin()
    await reads.server.server.GetServerInfo(
        server_pb2.GetServerInfoRequest(), metadata=reads.metadata()
    )
    await reads.server.adapters.ListAdapters(
        adapters_pb2.ListAdaptersRequest(), metadata=reads.metadata()
    )
    headers = {"traceparent": reads.traceparent}
    await reads.front.client.get("/health", headers=headers)
    await reads.front.client.get("/v1/models", headers={**headers, **as_("app")})
    await reads.front.client.post("/no/such/page", headers=headers)

    headers = {"traceparent": stranger.traceparent}
    assert (await stranger.front.client.post("/v1/completions", headers=headers)).status_code == 401
    message = inference_pb2.GenerateRequest(prompt="x")
    unknown: Any = stranger.server.channel.unary_unary("/loramux.v1.Inference/Whatever")
    await refused(unknown(b"", metadata=tuple(headers.items())), grpc.StatusCode.UNIMPLEMENTED)
    calls = (
        (stranger, (), grpc.StatusCode.UNAUTHENTICATED),
        (
            outside,
            bearer("narrow"),
            grpc.StatusCode.PERMISSION_DENIED,
        ),
    )
    for own, token, code in calls:
        metadata = (*token, ("traceparent", own.traceparent))
        await refused(own.server.inference.Generate(message, metadata=metadata), code)

    (denied,) = await outside.spans(1)
    assert denied.attributes["rpc.grpc.status_code"] == 7
    sent = {span.trace_id for span in traced.collector.spans}
    assert not sent & {reads.trace_id, stranger.trace_id}


async def test_a_caller_s_choice_not_to_sample(traced: Traced) -> None:
    quiet, loud = traced.begin("00"), traced.begin()
    await quiet.generate(prompt="x", max_new_tokens=1)
    await loud.generate(prompt="x", max_new_tokens=1)
    await loud.spans(5)
    assert quiet.trace_id not in {span.trace_id for span in traced.collector.spans}


async def test_calls_at_once_keep_their_traces_apart(traced: Traced) -> None:
    """Even under one id, which callers choose."""
    owns = [traced.begin() for _ in range(6)]
    await asyncio.gather(
        *(
            own.generate(("x-request-id", "same"), prompt="x " * (i + 1), max_new_tokens=i + 1)
            for i, own in enumerate(owns)
        )
    )
    for i, own in enumerate(owns):
        request = (await own.spans(5))[1]
        assert request.attributes["gen_ai.request.max_tokens"] == i + 1
        assert request.attributes["gen_ai.request.id"] == "same"


async def test_no_prompt_is_in_any_span(traced: Traced) -> None:
    own = traced.begin()
    await own.generate(prompt=SECRET, max_new_tokens=1, stop=[SECRET])
    await own.post("/v1/completions", prompt=SECRET, stop=SECRET, max_tokens=1, user=SECRET)
    await own.post("/v1/completions", prompt="x", temperature=SECRET)
    await own.spans(11)
    sent = b"".join(traced.collector.bodies)
    assert own.trace_id in {span.trace_id for span in traced.collector.spans}
    assert SECRET.encode() not in sent
    assert json.dumps(SECRET).encode() not in sent


async def test_the_client_package_hands_a_trace_on(traced: Traced) -> None:
    own = traced.begin()
    headers = [("traceparent", own.traceparent)]
    async with (
        AsyncClient(own.server.target, token=token_of("app")) as client,
        client.stream(prompt="x", max_new_tokens=1, metadata=headers) as answers,
    ):
        assert [answer async for answer in answers]
    call = (await own.spans(5))[0]
    assert call.parent_id == own.parent_id
