"""Every call of every service, from its arrival to its end, whatever ends it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import grpc
import structlog

if TYPE_CHECKING:
    from ..tracing.calls import CallSpan
    from ..tracing.tracing import Tracing

log = structlog.get_logger("loramux.server")
M = TypeVar("M")
_Way = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Awaitable[Any]]]
UNKNOWN_METHOD = "other"
"""Method of calls of what is not served; their names are the callers' and without end."""


class CallObserver(Protocol):
    """Observer of calls, on the event loop. `method` is like "loramux.v1.Inference/Generate"."""

    def begun(self, method: str, peer: str) -> None:
        """A call's handler has begun."""

    def ended(self, method: str, peer: str, code: grpc.StatusCode) -> None:
        """A call has ended: once for each `begun`.

        One that never reached its handler has both at its end, and no peer: an unknown method, a
        message that did not come or cannot be read.
        """


class PerHandler(Generic[M]):
    """What is made of handlers, by method: gRPC gives the same one for each call of a method, unless
    another interceptor makes its own."""

    def __init__(self, make: Callable[[Any], M]) -> None:
        self._make = make
        self._made: dict[str, tuple[Any, M]] = {}

    def of(self, method: str, handler: Any) -> M:
        """Give what is made of a handler; it is made anew if the method had another one before."""
        kept = self._made.get(method)
        if kept is None or kept[0] is not handler:
            kept = self._made[method] = handler, self._make(handler)
        return kept[1]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Interceptor that tells observers of each call; to be the outermost one.

    `tracing`: gives calls their spans, where there are any.
    """

    def __init__(self, observers: Sequence[CallObserver], tracing: Tracing | None = None) -> None:
        self._observers, self._tracing = tuple(observers), tracing
        self.arrived = 0
        """Calls since the start."""
        self.open = 0
        """Calls that have arrived and not ended, those without a handler yet among them."""
        self._ways: PerHandler[_Way] = PerHandler(_way_of)
        self._may_pass = asyncio.Event()
        self._may_pass.set()

    def hold(self) -> None:
        """Let no call begin, or end with an answer, until `release`: clients that wait for one send
        no other."""
        self._may_pass.clear()

    def release(self) -> None:
        self._may_pass.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        call = _Call(details.method.lstrip("/"))
        # The task serves this one call: its end is the call's, even where no handler ever runs.
        task = asyncio.current_task()
        assert task is not None
        self.arrived += 1
        self.open += 1
        task.add_done_callback(lambda _: self._end(call))
        span = (
            None
            if self._tracing is None
            else self._tracing.calls.rpc_begun(call.method, details.invocation_metadata)
        )
        handler = await continuation(details)
        if handler is None:
            call.method, call.outcome = UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED
            return None
        call.span = span  # not before: whose call it is, and of what, nobody has looked at
        return self._watched(handler, call)

    def _watched(self, handler: Any, call: _Call) -> Any:
        """Make a handler in the shape of `handler`, which must be asynchronous."""
        make, behavior, run = self._ways.of(call.method, handler)

        async def watched(request: Any, context: grpc.aio.ServicerContext) -> Any:
            self._begin(call, context)
            try:
                await self._may_pass.wait()
                answer = await run(behavior, request, context)
                await self._may_pass.wait()
            except asyncio.CancelledError:
                raise
            except BaseException:
                call.outcome = grpc.StatusCode.UNKNOWN
                raise
            call.outcome = grpc.StatusCode.OK
            return answer

        return make(watched, call.reader(handler.request_deserializer), handler.response_serializer)

    def _begin(self, call: _Call, context: grpc.aio.ServicerContext) -> None:
        call.context, call.peer = context, context.peer()
        self._tell("begun", call.method, call.peer)

    def _end(self, call: _Call) -> None:
        self.open -= 1
        if call.context is None:
            self._tell("begun", call.method, call.peer)
        self._tell("ended", call.method, call.peer, call.code())
        if call.span is not None:
            call.span.rpc_ended(call.code())

    def _tell(self, event: str, *args: Any) -> None:
        for observer in self._observers:
            try:
                getattr(observer, event)(*args)
            except Exception:
                log.exception("an observer of calls failed", observer=repr(observer))


class _Call:
    """A call as far as it has got."""

    def __init__(self, method: str) -> None:
        self.method, self.peer = method, ""
        self.context: grpc.aio.ServicerContext | None = None
        self.span: CallSpan | None = None
        self.outcome = grpc.StatusCode.CANCELLED
        """Outcome of the handler, until it has one."""

    def reader(self, read: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
        """Make `read` note a message that it cannot read: no handler hears of that."""

        if read is None:
            return None

        def watched(data: bytes) -> Any:
            try:
                return read(data)
            except Exception:
                self.outcome = grpc.StatusCode.UNKNOWN
                raise

        return watched

    def code(self) -> grpc.StatusCode:
        """Status that was set, or what gRPC makes of how the handler ended."""
        code = None if self.context is None else self.context.code()
        return code if isinstance(code, grpc.StatusCode) else self.outcome


def shape(handler: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Give what makes a handler of the same shape, and what `handler` does."""
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler, handler.stream_stream
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


def _way_of(handler: Any) -> _Way:
    """Give a handler's shape, and how what it does is run."""
    make, behavior = shape(handler)
    return make, behavior, _to_end if inspect.iscoroutinefunction(behavior) else _write_all


async def _to_end(
    behavior: Callable[..., Any], request: Any, context: grpc.aio.ServicerContext
) -> Any:
    return await behavior(request, context)


async def _write_all(
    behavior: Callable[..., Any], request: Any, context: grpc.aio.ServicerContext
) -> None:
    """Write what a generator yields, as gRPC would; it is closed when the call ends, not later."""
    async with aclosing(behavior(request, context)) as answers:
        async for answer in answers:
            await context.write(answer)
