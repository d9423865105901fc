"""Interceptor that asks every call for its token and holds it to its scope."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import grpc

from ..request_ids import METADATA_KEY, request_id_of
from ..tracing.current import note_stranger
from .refusals import Refusals, log_admin
from .rules import ANY_TOKEN_PREFIX, NO_TOKEN, OPEN_PREFIX, RULES, Rule
from .tokens import ANYONE, Caller, TokenFile, bearer_token

_CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYONE)

Check = Callable[[Any, grpc.aio.ServicerContext], Awaitable[None]]


def caller() -> Caller:
    """Caller of the call that runs now. Read it on the event loop: threads do not have it."""
    return _CALLER.get()


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Interceptor that answers UNAUTHENTICATED without a valid token, PERMISSION_DENIED outside its
    rights and scope."""

    def __init__(self, tokens: TokenFile, on_refused: Callable[[str], None]) -> None:
        self._tokens = tokens
        self._refusals = Refusals(on_refused)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler, method = await continuation(details), details.method
        if handler is None or method.startswith(OPEN_PREFIX):
            return handler
        who = self._tokens.caller(_bearer(details.invocation_metadata))
        if who is None:
            note_stranger()
            return self._refusing(handler, method)
        if method.startswith(ANY_TOKEN_PREFIX):
            return handler
        return _guarded(handler, self._check(who, method, RULES[method]))

    def _check(self, who: Caller, method: str, rule: Rule) -> Check:
        async def check(request: Any, context: grpc.aio.ServicerContext) -> None:
            refusal = rule.refusal(who, request)
            if refusal:
                request_id = request_id_of(context, getattr(request, "request_id", ""))
                self._refusals.outside(who, method, request_id, refusal)
                trailers = ((METADATA_KEY, request_id),)
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal, trailers)
            log_admin(who, rule.right, method, rule.adapters(request))
            _CALLER.set(who)

        return check

    def _refusing(self, handler: Any, method: str) -> Any:
        """Make a refusing handler in the shape of `handler`; the request is not even parsed."""

        async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
            request_id = request_id_of(context)
            self._refusals.without_token(method, request_id, context.peer())
            trailers = ((METADATA_KEY, request_id),)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN, trailers)

        async def refuse_stream(
            request: Any, context: grpc.aio.ServicerContext
        ) -> AsyncIterator[None]:
            await refuse(request, context)
            yield

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(refuse_stream)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(refuse_stream)
        return grpc.unary_unary_rpc_method_handler(refuse)


def _bearer(metadata: Any) -> str:
    return bearer_token([value for key, value in metadata or () if key == "authorization"])


def _guarded(handler: Any, check: Check) -> Any:
    """Put `handler` behind `check`; all of loramux's calls have one request message."""

    async def unary(request: Any, context: grpc.aio.ServicerContext) -> Any:
        await check(request, context)
        return await handler.unary_unary(request, context)

    async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        await check(request, context)
        async with aclosing(handler.unary_stream(request, context)) as answers:
            async for answer in answers:
                yield answer

    make, behavior = (
        (grpc.unary_stream_rpc_method_handler, stream)
        if handler.response_streaming
        else (grpc.unary_unary_rpc_method_handler, unary)
    )
    return make(behavior, handler.request_deserializer, handler.response_serializer)
