"""Calls that run: counted by client, and held for a moment when the server stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc

from .connections import Address, address_of

OWN_PREFIX = "/loramux."


class RunningCalls(grpc.aio.ServerInterceptor):
    """Interceptor that counts the running calls of loramux's own services.

    Streams of health and reflection do not count: they stay open for as long as a client likes.
    """

    def __init__(self) -> None:
        self.count = 0
        self.begun = 0
        """Calls since the start, those that wait in `hold` too."""
        self._of: Counter[Address | None] = Counter()
        self._may_pass = asyncio.Event()
        self._may_pass.set()

    def of(self, client: Address) -> int:
        """Count the calls that `client` may have: those of unknown clients are everybody's."""
        return self._of[client] + self._of[None]

    def hold(self) -> None:
        """Let no call begin or end with an answer until `release`: clients that wait for one send
        no other."""
        self._may_pass.clear()

    def release(self) -> None:
        self._may_pass.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(OWN_PREFIX):
            return handler
        make, behavior = (
            (grpc.unary_stream_rpc_method_handler, self._stream(handler.unary_stream))
            if handler.response_streaming
            else (grpc.unary_unary_rpc_method_handler, self._unary(handler.unary_unary))
        )
        return make(behavior, handler.request_deserializer, handler.response_serializer)

    def _unary(self, behavior: Any) -> Any:
        async def unary(request: Any, context: grpc.aio.ServicerContext) -> Any:
            with self._running(context.peer()):
                await self._may_pass.wait()
                answer = await behavior(request, context)
                await self._may_pass.wait()
                return answer

        return unary

    def _stream(self, behavior: Any) -> Any:
        async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            with self._running(context.peer()):
                await self._may_pass.wait()
                async with aclosing(behavior(request, context)) as answers:
                    async for answer in answers:
                        yield answer
                await self._may_pass.wait()

        return stream

    @contextmanager
    def _running(self, peer: str) -> Iterator[None]:
        client = address_of(peer)
        self.begun += 1
        self.count += 1
        self._of[client] += 1
        try:
            yield
        finally:
            self.count -= 1
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]
