"""Calls of both clients but for generations: which rpc with which request, for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message
from loramux.v1 import (
    adapters_pb2,
    adapters_pb2_grpc,
    inference_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)

if TYPE_CHECKING:
    from .fields import LoadFields, PolicyFields

T = TypeVar("T")
CALL_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 3600.0
"""Of changes that read an adapter, which may be far away."""
_LIST_PAGE = 500


class Stubs:
    """The rpcs of a channel, made once."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        # The generated stubs have no types.
        services: Any = (
            inference_pb2_grpc.InferenceStub,
            adapters_pb2_grpc.AdaptersStub,
            server_pb2_grpc.ServerStub,
        )
        self._rpcs = {
            name: rpc for service in services for name, rpc in vars(service(channel)).items()
        }
        self.generate, self.stream = self._rpcs["Generate"], self._rpcs["GenerateStream"]

    def __getitem__(self, name: str) -> Any:
        return self._rpcs[name]


@dataclass(frozen=True)
class Call(Generic[T]):
    """A call whose answer is a T."""

    rpc: str
    request: Message
    timeout_s: float


def load_adapter(fields: LoadFields, timeout_s: float) -> Call[adapters_pb2.Adapter]:
    return Call("LoadAdapter", adapters_pb2.LoadAdapterRequest(**fields), timeout_s)


def unload_adapter(adapter_id: str, wait_s: float) -> Call[adapters_pb2.Adapter]:
    request = adapters_pb2.UnloadAdapterRequest(adapter_id=adapter_id, timeout_s=wait_s)
    return Call("UnloadAdapter", request, wait_s + CALL_TIMEOUT_S)


def rollback_adapter(adapter_id: str, version: str, timeout_s: float) -> Call[adapters_pb2.Adapter]:
    request = adapters_pb2.RollbackAdapterRequest(adapter_id=adapter_id, version=version)
    return Call("RollbackAdapter", request, timeout_s)


def set_canary(adapter_id: str, weight: float, timeout_s: float) -> Call[adapters_pb2.Adapter]:
    request = adapters_pb2.SetCanaryRequest(adapter_id=adapter_id, weight=weight)
    return Call("SetCanary", request, timeout_s)


def set_policy(
    adapter_id: str, fields: PolicyFields, timeout_s: float
) -> Call[adapters_pb2.SetPolicyResponse]:
    policy = adapters_pb2.Policy(**fields)
    request = adapters_pb2.SetPolicyRequest(adapter_id=adapter_id, policy=policy)
    return Call("SetPolicy", request, timeout_s)


def get_adapter(adapter_id: str, timeout_s: float) -> Call[adapters_pb2.Adapter]:
    return Call("GetAdapter", adapters_pb2.GetAdapterRequest(adapter_id=adapter_id), timeout_s)


def list_page(
    token: str, without_modules: bool, timeout_s: float
) -> Call[adapters_pb2.ListAdaptersResponse]:
    request = adapters_pb2.ListAdaptersRequest(
        page_size=_LIST_PAGE, page_token=token, without_modules=without_modules
    )
    return Call("ListAdapters", request, timeout_s)


def declared_adapters(timeout_s: float) -> Call[adapters_pb2.ListDeclaredAdaptersResponse]:
    return Call("ListDeclaredAdapters", adapters_pb2.ListDeclaredAdaptersRequest(), timeout_s)


def status(timeout_s: float) -> Call[server_pb2.ServerStatus]:
    return Call("GetStatus", server_pb2.GetStatusRequest(), timeout_s)


def server_info(timeout_s: float) -> Call[server_pb2.ServerInfo]:
    return Call("GetServerInfo", server_pb2.GetServerInfoRequest(), timeout_s)
