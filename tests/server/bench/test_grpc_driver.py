"""What is sent over gRPC, to a service that says what a test tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from loramux.v1 import inference_pb2, inference_pb2_grpc
from loramux_client import AsyncClient

from server.bench.call import Ask, Call
from server.bench.draws.prompts import Prompt
from server.bench.grpc_driver import GrpcDriver

EMPTY = 99
"""Tokens for which there is no choice."""


class Service(inference_pb2_grpc.InferenceServicer):
    """Refuses the first calls."""

    def __init__(self, refusals: int) -> None:
        self._refusals = refusals
        self.requests: list[inference_pb2.GenerateRequest] = []

    async def Generate(self, request: inference_pb2.GenerateRequest, context: Any) -> Any:
        self.requests.append(request)
        if len(self.requests) <= self._refusals:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if request.max_new_tokens == EMPTY:
            return inference_pb2.GenerateResponse()
        usage = inference_pb2.Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)
        return inference_pb2.GenerateResponse(choices=[inference_pb2.Choice(usage=usage)])


@asynccontextmanager
async def serving(refusals: int = 0) -> AsyncIterator[tuple[Service, str]]:
    server, service = grpc.aio.server(), Service(refusals)
    inference_pb2_grpc.add_InferenceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield service, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def called(target: str, ask: Ask, retry: bool = False) -> Call:
    call = Call("a", 0.0, 0.0)
    async with GrpcDriver(AsyncClient(target, retry=retry), ask) as driver:
        await driver.connect()  # a server without the call that it makes is one
        await driver.make(call, Prompt("x").as_chat())
    return call


@pytest.mark.parametrize(
    ("retry", "status", "attempts"), [(False, "UNAVAILABLE", 1), (True, "OK", 2)]
)
async def test_no_call_is_made_anew_unless_asked_for(
    retry: bool, status: str, attempts: int
) -> None:
    async with serving(refusals=1) as (service, target):
        call = await called(target, Ask(8, True, False, 30, False), retry)
    assert (call.status, len(service.requests)) == (status, attempts)


async def test_what_is_asked_and_what_is_counted() -> None:
    ask = Ask(8, True, False, 30, True)
    async with serving() as (service, target):
        calls = [await called(target, ask) for _ in range(2)]
    first, second = service.requests
    assert (first.adapter_id, first.max_new_tokens, first.ignore_eos) == ("a", 8, True)
    assert [(m.role, m.content) for m in first.messages] == [("user", "x")]
    assert first.cache_salt
    assert first.cache_salt != second.cache_salt
    assert [(c.tokens, c.prompt_tokens, c.cached_tokens) for c in calls] == [(2, 3, 1)] * 2


async def test_an_answer_without_a_choice() -> None:
    async with serving() as (_, target):
        call = await called(target, Ask(EMPTY, True, False, 30, False))
    assert call.status == "BROKEN"
