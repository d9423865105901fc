"""Client of the calls that the command line makes to a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from loramux.v1 import (
    adapters_pb2,
    adapters_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)

from .tls import TLSError, channel_credentials

_CALL_TIMEOUT_S = 60
_LOAD_TIMEOUT_S = 3600
_LIST_PAGE = 500


class CallError(Exception):
    """Error of a call; the message is one line a person can act on.

    `code` is None where no call was made.
    """

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True)
class Client:
    """Client of one server. Every call opens a channel of its own and raises CallError."""

    target: str
    tls: bool = False
    """True for TLS; on by itself where `ca` or `cert` is given; alone: the system's authorities."""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: str = ""

    @property
    def is_secure(self) -> bool:
        return self.tls or any((self.ca, self.cert, self.key))

    def stream(self, **fields: Any) -> Iterator[inference_pb2.GenerateStreamResponse]:
        """Call GenerateStream; `fields` are GenerateRequest's.

        Closing the iterator cancels the call.
        """
        with self._channel() as channel:
            request = inference_pb2.GenerateRequest(**fields)
            call = inference_pb2_grpc.InferenceStub(channel).GenerateStream(
                request, metadata=self._metadata
            )
            try:
                yield from call
            finally:
                call.cancel()

    def load_adapter(self, **fields: Any) -> adapters_pb2.Adapter:
        """Call LoadAdapter; `fields` are LoadAdapterRequest's."""
        return self._adapters(
            "LoadAdapter", adapters_pb2.LoadAdapterRequest(**fields), _LOAD_TIMEOUT_S
        )

    def unload_adapter(self, adapter_id: str, timeout_s: float) -> adapters_pb2.Adapter:
        request = adapters_pb2.UnloadAdapterRequest(adapter_id=adapter_id, timeout_s=timeout_s)
        return self._adapters("UnloadAdapter", request, timeout_s + _CALL_TIMEOUT_S)

    def rollback_adapter(self, adapter_id: str, version: str) -> adapters_pb2.Adapter:
        request = adapters_pb2.RollbackAdapterRequest(adapter_id=adapter_id, version=version)
        return self._adapters("RollbackAdapter", request, _LOAD_TIMEOUT_S)

    def set_canary(self, adapter_id: str, weight: float) -> adapters_pb2.Adapter:
        request = adapters_pb2.SetCanaryRequest(adapter_id=adapter_id, weight=weight)
        return self._adapters("SetCanary", request, _LOAD_TIMEOUT_S)

    def set_policy(self, adapter_id: str, **fields: Any) -> adapters_pb2.SetPolicyResponse:
        """Call SetPolicy; `fields` are Policy's."""
        request = adapters_pb2.SetPolicyRequest(
            adapter_id=adapter_id, policy=adapters_pb2.Policy(**fields)
        )
        return self._adapters("SetPolicy", request)

    def list_adapters(self) -> list[adapters_pb2.Adapter]:
        """List the adapters of all pages."""
        found: list[adapters_pb2.Adapter] = []
        token = ""
        while True:
            request = adapters_pb2.ListAdaptersRequest(page_size=_LIST_PAGE, page_token=token)
            page = self._adapters("ListAdapters", request)
            found += page.adapters
            token = page.next_page_token
            if not token:
                return found

    def declared_adapters(self) -> list[adapters_pb2.DeclaredAdapter]:
        return list(
            self._adapters(
                "ListDeclaredAdapters", adapters_pb2.ListDeclaredAdaptersRequest()
            ).adapters
        )

    def server_info(self) -> server_pb2.ServerInfo:
        with self._channel() as channel:
            request = server_pb2.GetServerInfoRequest()
            return server_pb2_grpc.ServerStub(channel).GetServerInfo(
                request, timeout=_CALL_TIMEOUT_S, metadata=self._metadata
            )

    def _adapters(self, rpc: str, request: Message, timeout_s: float = _CALL_TIMEOUT_S) -> Any:
        with self._channel() as channel:
            call = getattr(adapters_pb2_grpc.AdaptersStub(channel), rpc)
            return call(request, timeout=timeout_s, metadata=self._metadata)

    @property
    def _metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    @contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        try:
            with self._open() as channel:
                yield channel
        except TLSError as error:
            raise CallError(str(error)) from error
        except grpc.RpcError as error:
            raise CallError(_describe(error), error.code()) from error

    def _open(self) -> grpc.Channel:
        if not self.is_secure:
            return grpc.insecure_channel(self.target)
        return grpc.secure_channel(self.target, channel_credentials(self.ca, self.cert, self.key))


def to_dict(message: Message) -> dict[str, Any]:
    """Turn a message into a dict.

    Field names as in the .proto files; zeros and empty texts are shown.
    """
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _describe(error: Any) -> str:
    lines = [f"{error.code().name}: {error.details()}"]
    status = rpc_status.from_call(error)
    for packed in status.details if status is not None else ():
        bad, quota, retry, request = (
            error_details_pb2.BadRequest(),
            error_details_pb2.QuotaFailure(),
            error_details_pb2.RetryInfo(),
            error_details_pb2.RequestInfo(),
        )
        if packed.Unpack(bad):
            lines += [f"  {v.field}: {v.description}" for v in bad.field_violations]
        elif packed.Unpack(quota):
            lines += [f"  {v.subject}: {v.description}" for v in quota.violations]
        elif packed.Unpack(retry):
            lines.append(f"  retry after {retry.retry_delay.ToMilliseconds() / 1000:g} s")
        elif packed.Unpack(request):
            lines.append(f"  request id {request.request_id}")
    return "\n".join(lines)
