"""Calls over gRPC, by the client package."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from grpc import StatusCode
from loramux.v1 import inference_pb2
from loramux_client import AsyncClient, CallError

from .call import CONNECT_TIMEOUT_S, Ask, BenchError, Call
from .draws.prompts import Prompt, salts


class GrpcDriver:
    """Caller of one server over one channel."""

    def __init__(self, client: AsyncClient, ask: Ask) -> None:
        self._client, self._ask = client, ask
        self._salts = salts()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def connect(self) -> None:
        try:
            await self._client.server_info(timeout_s=CONNECT_TIMEOUT_S)
        except CallError as error:
            # Any other answer is one too: of a server that does not let everybody ask this.
            if error.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
                raise BenchError(str(error)) from error

    async def adapters(self) -> list[str]:
        try:
            return [one.adapter_id for one in await self._client.list_adapters()]
        except CallError as error:
            raise BenchError(str(error)) from error

    async def make(self, call: Call, prompt: Prompt) -> None:
        request = self._request(call.adapter, prompt)
        try:
            if self._ask.stream:
                await self._stream(call, request)
            else:
                answer = await self._client.generate(request, timeout_s=self._ask.timeout_s)
                if not answer.choices:
                    return call.fail("BROKEN", "the answer has no choice")
                _note_usage(call, answer.choices[0].usage)
        except CallError as error:
            status = error.code.name if error.code is not None else "CONNECTION"
            call.fail(status, error.details)

    async def _stream(self, call: Call, request: inference_pb2.GenerateRequest) -> None:
        async for event in self._client.stream(request, timeout_s=self._ask.timeout_s):
            if count := len(event.token_ids):
                call.took(count, time.perf_counter())
            if event.finish_reason:
                _note_usage(call, event.usage)

    def _request(self, adapter: str, prompt: Prompt) -> inference_pb2.GenerateRequest:
        return inference_pb2.GenerateRequest(
            adapter_id=adapter,
            prompt=prompt.text,
            messages=prompt.messages,
            max_new_tokens=self._ask.max_new_tokens,
            ignore_eos=self._ask.ignore_eos,
            cache_salt=next(self._salts) if self._ask.salted else "",
        )


def _note_usage(call: Call, usage: inference_pb2.Usage) -> None:
    call.tokens, call.prompt_tokens = usage.completion_tokens, usage.prompt_tokens
    call.cached_tokens = usage.cached_tokens
