"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from loramux.v1 import adapters_pb2, inference_pb2, server_pb2

from . import calls
from .calls import CALL_TIMEOUT_S, LOAD_TIMEOUT_S, Call, Stubs
from .errors import CallError, from_rpc, of_closed
from .reach import Metadata, Reach, deadline, request_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .fields import GenerateFields, LoadFields, PolicyFields

T = TypeVar("T")
_ERRORS = (grpc.aio.AioRpcError, grpc.aio.BaseError)
"""Those of calls that ended, and of calls that gRPC did not begin."""


class AsyncStream(AsyncIterator[inference_pb2.GenerateStreamResponse]):
    """One answer's events as they come; raises CallError.

    Leaving it as a context manager, `cancel`, or cancelling the task that reads it, ends the call
    on the server too.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._events = call.__aiter__()
        self._cancelled = False

    async def __anext__(self) -> inference_pb2.GenerateStreamResponse:
        if self._cancelled:
            raise StopAsyncIteration
        try:
            event: inference_pb2.GenerateStreamResponse | None = await self._events.__anext__()
        except _ERRORS as error:
            raise _told(error) from error
        except asyncio.CancelledError:
            ended = _ended()
            if self._cancelled and isinstance(ended, CallError):
                raise StopAsyncIteration from None
            raise ended from None
        if event is None:
            self._call.cancel()
        return _readable(event)

    def cancel(self) -> None:
        """End the call and its iteration."""
        self._cancelled = True
        self._call.cancel()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.cancel()


class AsyncClient(Reach):
    """Client of one server for one event loop, over one channel, which its first call opens; every
    call raises CallError.

    `metadata` is sent beside the client's own.
    """

    _channel: grpc.aio.Channel | None = None
    _is_closed = False

    async def close(self) -> None:
        """Close the channel; calls that run are cancelled."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        await self.close()

    async def generate(
        self,
        request: inference_pb2.GenerateRequest | None = None,
        /,
        *,
        timeout_s: float | None = None,
        metadata: Metadata = (),
        **fields: Unpack[GenerateFields],
    ) -> inference_pb2.GenerateResponse:
        """Generate, and give the whole answer. Takes a request, or its fields."""
        message = request_of(request, fields)
        headers = self._generation_metadata(message, metadata)
        try:
            answer: inference_pb2.GenerateResponse | None = await self._open().generate(
                message, timeout=self._deadline(timeout_s), metadata=headers
            )
        except _ERRORS as error:
            raise _told(error) from error
        except asyncio.CancelledError:
            raise _ended() from None
        return _readable(answer)

    def stream(
        self,
        request: inference_pb2.GenerateRequest | None = None,
        /,
        *,
        timeout_s: float | None = None,
        metadata: Metadata = (),
        **fields: Unpack[GenerateFields],
    ) -> AsyncStream:
        """Generate, and give the answer's events as they come. Takes a request, or its fields."""
        message = request_of(request, fields)
        headers = self._generation_metadata(message, metadata)
        return AsyncStream(
            self._open().stream(message, timeout=self._deadline(timeout_s), metadata=headers)
        )

    async def load_adapter(
        self, *, timeout_s: float = LOAD_TIMEOUT_S, **fields: Unpack[LoadFields]
    ) -> adapters_pb2.Adapter:
        """Load an adapter, or move its id to a new version."""
        return await self._ask(calls.load_adapter(fields, timeout_s))

    async def unload_adapter(self, adapter_id: str, *, wait_s: float = 0) -> adapters_pb2.Adapter:
        """Unload an adapter; requests that use it are waited for `wait_s` seconds."""
        return await self._ask(calls.unload_adapter(adapter_id, wait_s))

    async def rollback_adapter(
        self, adapter_id: str, version: str = "", *, timeout_s: float = LOAD_TIMEOUT_S
    ) -> adapters_pb2.Adapter:
        """Serve an older version again; by default the newest of them."""
        return await self._ask(calls.rollback_adapter(adapter_id, version, timeout_s))

    async def set_canary(
        self, adapter_id: str, weight: float, *, timeout_s: float = LOAD_TIMEOUT_S
    ) -> adapters_pb2.Adapter:
        """Give the canary a share of the requests; 0 drops it, 1 promotes it."""
        return await self._ask(calls.set_canary(adapter_id, weight, timeout_s))

    async def set_policy(
        self,
        adapter_id: str,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        **fields: Unpack[PolicyFields],
    ) -> adapters_pb2.SetPolicyResponse:
        """Set what an adapter's requests may take, in place of the whole former policy."""
        return await self._ask(calls.set_policy(adapter_id, fields, timeout_s))

    async def get_adapter(
        self, adapter_id: str, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> adapters_pb2.Adapter:
        return await self._ask(calls.get_adapter(adapter_id, timeout_s))

    async def list_adapters(
        self, *, without_modules: bool = False, timeout_s: float = CALL_TIMEOUT_S
    ) -> list[adapters_pb2.Adapter]:
        """List the adapters of all pages, if wanted without their modules, of which there may be
        hundreds each; `timeout_s` is each page's."""
        found: list[adapters_pb2.Adapter] = []
        token = ""
        while True:
            page = await self._ask(calls.list_page(token, without_modules, timeout_s))
            found += page.adapters
            token = page.next_page_token
            if not token:
                return found

    async def declared_adapters(
        self, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> list[adapters_pb2.DeclaredAdapter]:
        """List what has become of the adapters that the server's manifest and folder declare."""
        answer = await self._ask(calls.declared_adapters(timeout_s))
        return list(answer.adapters)

    async def status(self, *, timeout_s: float = CALL_TIMEOUT_S) -> server_pb2.ServerStatus:
        """Tell what runs now, what the slots hold, and how fast it goes."""
        return await self._ask(calls.status(timeout_s))

    async def server_info(self, *, timeout_s: float = CALL_TIMEOUT_S) -> server_pb2.ServerInfo:
        """Tell what the server is, its limits and its load."""
        return await self._ask(calls.server_info(timeout_s))

    async def _ask(self, call: Call[T]) -> T:
        try:
            answer: T | None = await self._open()[call.rpc](
                call.request, timeout=deadline(call.timeout_s), metadata=self._metadata
            )
        except _ERRORS as error:
            raise _told(error) from error
        except asyncio.CancelledError:
            raise _ended() from None
        return _readable(answer)

    def _open(self) -> Stubs:
        """Give the channel's stubs. gRPC binds a channel to the loop that runs when it is made."""
        if self._is_closed:
            raise of_closed()
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self.target, self._options())
            else:
                self._channel = grpc.aio.secure_channel(
                    self.target, self._credentials, self._options()
                )
            self._stubs = Stubs(self._channel)
        return self._stubs


def _ended() -> BaseException:
    """Make the error of a call that was ended here: the task's cancellation, if that was it.

    gRPC raises CancelledError in a task that nobody has cancelled, where its call was: by `cancel`,
    or as the channel was closed.
    """
    task = asyncio.current_task()
    # Before Python 3.11 tasks do not tell.
    if task is None or not hasattr(task, "cancelling") or task.cancelling():
        return asyncio.CancelledError()
    return of_closed()


def _told(error: Exception) -> CallError:
    """Make the error of a call that gRPC ended, or did not begin."""
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc(error)
    if isinstance(error, grpc.aio.UsageError):
        return of_closed()
    return CallError("INTERNAL: Invalid metadata", grpc.StatusCode.INTERNAL)


def _readable(answer: T | None) -> T:
    """Give an answer; gRPC makes None of one that it cannot read."""
    if answer is None:
        raise CallError("INTERNAL: the answer cannot be read", grpc.StatusCode.INTERNAL)
    return answer
