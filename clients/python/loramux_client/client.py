"""The client for threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from loramux.v1 import adapters_pb2, inference_pb2, server_pb2

from . import calls
from .calls import CALL_TIMEOUT_S, LOAD_TIMEOUT_S, Call, Stubs
from .errors import from_rpc, of_closed
from .reach import Metadata, Reach, deadline, request_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .fields import GenerateFields, LoadFields, PolicyFields

T = TypeVar("T")


class Stream(Iterator[inference_pb2.GenerateStreamResponse]):
    """One answer's events as they come; raises CallError.

    Leaving it as a context manager, or `cancel`, ends the call on the server too.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._cancelled = False

    def __next__(self) -> inference_pb2.GenerateStreamResponse:
        try:
            event: inference_pb2.GenerateStreamResponse = next(self._call)
        except grpc.RpcError as error:
            if self._cancelled:
                raise StopIteration from None
            raise from_rpc(error) from error
        return event

    def cancel(self) -> None:
        """End the call, from any thread, and its iteration."""
        self._cancelled = True
        self._call.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.cancel()


class Client(Reach):
    """Client of one server for any number of threads, over one channel; every call raises CallError.

    `metadata` is sent beside the client's own.
    """

    _is_closed = False

    def _start(self) -> None:
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self.target, self._options())
        else:
            self._channel = grpc.secure_channel(self.target, self._credentials, self._options())
        self._stubs = Stubs(self._channel)

    def close(self) -> None:
        """Close the channel; calls that run are cancelled."""
        self._is_closed = True
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def generate(
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
        with self._errors():
            answer: inference_pb2.GenerateResponse = self._stubs.generate(
                message, timeout=self._deadline(timeout_s), metadata=headers
            )
        return answer

    def stream(
        self,
        request: inference_pb2.GenerateRequest | None = None,
        /,
        *,
        timeout_s: float | None = None,
        metadata: Metadata = (),
        **fields: Unpack[GenerateFields],
    ) -> Stream:
        """Generate, and give the answer's events as they come. Takes a request, or its fields."""
        message = request_of(request, fields)
        headers = self._generation_metadata(message, metadata)
        with self._errors():
            return Stream(
                self._stubs.stream(message, timeout=self._deadline(timeout_s), metadata=headers)
            )

    def load_adapter(
        self, *, timeout_s: float = LOAD_TIMEOUT_S, **fields: Unpack[LoadFields]
    ) -> adapters_pb2.Adapter:
        """Load an adapter, or move its id to a new version."""
        return self._ask(calls.load_adapter(fields, timeout_s))

    def unload_adapter(self, adapter_id: str, *, wait_s: float = 0) -> adapters_pb2.Adapter:
        """Unload an adapter; requests that use it are waited for `wait_s` seconds."""
        return self._ask(calls.unload_adapter(adapter_id, wait_s))

    def rollback_adapter(
        self, adapter_id: str, version: str = "", *, timeout_s: float = LOAD_TIMEOUT_S
    ) -> adapters_pb2.Adapter:
        """Serve an older version again; by default the newest of them."""
        return self._ask(calls.rollback_adapter(adapter_id, version, timeout_s))

    def set_canary(
        self, adapter_id: str, weight: float, *, timeout_s: float = LOAD_TIMEOUT_S
    ) -> adapters_pb2.Adapter:
        """Give the canary a share of the requests; 0 drops it, 1 promotes it."""
        return self._ask(calls.set_canary(adapter_id, weight, timeout_s))

    def set_policy(
        self,
        adapter_id: str,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        **fields: Unpack[PolicyFields],
    ) -> adapters_pb2.SetPolicyResponse:
        """Set what an adapter's requests may take, in place of the whole former policy."""
        return self._ask(calls.set_policy(adapter_id, fields, timeout_s))

    def get_adapter(
        self, adapter_id: str, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> adapters_pb2.Adapter:
        return self._ask(calls.get_adapter(adapter_id, timeout_s))

    def list_adapters(
        self, *, without_modules: bool = False, timeout_s: float = CALL_TIMEOUT_S
    ) -> list[adapters_pb2.Adapter]:
        """List the adapters of all pages, if wanted without their modules, of which there may be
        hundreds each; `timeout_s` is each page's."""
        found: list[adapters_pb2.Adapter] = []
        token = ""
        while True:
            page = self._ask(calls.list_page(token, without_modules, timeout_s))
            found += page.adapters
            token = page.next_page_token
            if not token:
                return found

    def declared_adapters(
        self, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> list[adapters_pb2.DeclaredAdapter]:
        """List what has become of the adapters that the server's manifest and folder declare."""
        answer = self._ask(calls.declared_adapters(timeout_s))
        return list(answer.adapters)

    def status(self, *, timeout_s: float = CALL_TIMEOUT_S) -> server_pb2.ServerStatus:
        """Tell what runs now, what the slots hold, and how fast it goes."""
        return self._ask(calls.status(timeout_s))

    def server_info(self, *, timeout_s: float = CALL_TIMEOUT_S) -> server_pb2.ServerInfo:
        """Tell what the server is, its limits and its load."""
        return self._ask(calls.server_info(timeout_s))

    def _ask(self, call: Call[T]) -> T:
        with self._errors():
            answer: T = self._stubs[call.rpc](
                call.request, timeout=deadline(call.timeout_s), metadata=self._metadata
            )
        return answer

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Make CallErrors of gRPC's."""
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc(error) from error
        except ValueError as error:
            if self._is_closed:
                raise of_closed() from error
            raise
