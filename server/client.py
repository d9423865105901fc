"""The calls that the command line makes to a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from loramux.v1 import adapters_pb2, adapters_pb2_grpc, inference_pb2, inference_pb2_grpc, server_pb2, server_pb2_grpc

_CALL_TIMEOUT_S = 60
_LIST_PAGE = 500


class CallError(Exception):
    """A call failed; the message is one line a person can act on."""


def stream(target: str, **fields: Any) -> Iterator[inference_pb2.GenerateStreamResponse]:
    """GenerateStream; `fields` are GenerateRequest's. Closing the iterator cancels the call."""
    with _channel(target) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).GenerateStream(inference_pb2.GenerateRequest(**fields))
        try:
            yield from call
        finally:
            call.cancel()


def load_adapter(target: str, path: str, name: str) -> adapters_pb2.Adapter:
    with _channel(target) as channel:
        request = adapters_pb2.LoadAdapterRequest(path=path, adapter_id=name)
        return adapters_pb2_grpc.AdaptersStub(channel).LoadAdapter(request, timeout=10 * _CALL_TIMEOUT_S)


def unload_adapter(target: str, name: str, timeout_s: float) -> adapters_pb2.Adapter:
    with _channel(target) as channel:
        request = adapters_pb2.UnloadAdapterRequest(adapter_id=name, timeout_s=timeout_s)
        return adapters_pb2_grpc.AdaptersStub(channel).UnloadAdapter(request, timeout=timeout_s + _CALL_TIMEOUT_S)


def list_adapters(target: str) -> list[adapters_pb2.Adapter]:
    """All pages."""
    found: list[adapters_pb2.Adapter] = []
    with _channel(target) as channel:
        stub, token = adapters_pb2_grpc.AdaptersStub(channel), ""
        while True:
            request = adapters_pb2.ListAdaptersRequest(page_size=_LIST_PAGE, page_token=token)
            page = stub.ListAdapters(request, timeout=_CALL_TIMEOUT_S)
            found += page.adapters
            token = page.next_page_token
            if not token:
                return found


def server_info(target: str) -> server_pb2.ServerInfo:
    with _channel(target) as channel:
        request = server_pb2.GetServerInfoRequest()
        return server_pb2_grpc.ServerStub(channel).GetServerInfo(request, timeout=_CALL_TIMEOUT_S)


def to_dict(message: Message) -> dict[str, Any]:
    """Field names as in the .proto files; zeros and empty texts are shown."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


@contextmanager
def _channel(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            raise CallError(_describe(error)) from error


def _describe(error: Any) -> str:
    lines = [f"{error.code().name}: {error.details()}"]
    status = rpc_status.from_call(error)
    for packed in status.details if status is not None else ():
        bad = error_details_pb2.BadRequest()
        if packed.Unpack(bad):
            lines += [f"  {v.field}: {v.description}" for v in bad.field_violations]
    return "\n".join(lines)
