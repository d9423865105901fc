"""Reflection, v1 and v1alpha: what clients without `.proto` files ask a server for its schema."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import grpc
from google.protobuf import descriptor, descriptor_pb2, descriptor_pool, text_format
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from .limits import has_many_fields

V1ALPHA = reflection.SERVICE_NAME
V1 = V1ALPHA.replace("v1alpha", "v1")
_LONGEST = 64 << 10
"""Characters of a name that may be there; to look for longer ones takes a while."""
_METHOD = "ServerReflectionInfo"
_Found = TypeVar("_Found")


def add_to(
    server: grpc.aio.Server,
    services: Iterable[str],
    pool: descriptor_pool.DescriptorPool | None = None,
) -> None:
    """Make `server` tell of `services`, and of everything else in `pool`, the process's own if not
    given."""
    pools = _Pools(pool or descriptor_pool.Default(), _pool_of_v1())
    servicer = _Servicer((*services, V1, V1ALPHA), pools)
    # The two differ in nothing but the name: what they send is the same to the byte.
    behaviour = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=_parsed,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {_METHOD: behaviour}) for name in (V1, V1ALPHA)]
    )


class _Servicer(reflection.aio.ReflectionServicer):
    async def ServerReflectionInfo(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Any]:
        async for answer in super().ServerReflectionInfo(requests, context):
            answer.valid_host = answer.original_request.host
            yield answer


class _Pools:
    """Descriptor pools in the shape of one, as far as the reflection servicer uses it.

    It finds methods, which protobuf's `FindFileContainingSymbol` does not.
    """

    def __init__(self, *pools: descriptor_pool.DescriptorPool) -> None:
        self._pools = pools

    def FindFileByName(self, name: str) -> descriptor.FileDescriptor:
        return self._first(name, lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, name: str) -> descriptor.FileDescriptor:
        try:
            return self._first(name, lambda pool: pool.FindFileContainingSymbol(name))
        except KeyError:
            method = self._first(name, lambda pool: pool.FindMethodByName(name))
            return method.containing_service.file

    def FindMessageTypeByName(self, name: str) -> descriptor.Descriptor:
        return self._first(name, lambda pool: pool.FindMessageTypeByName(name))

    def FindExtensionByNumber(
        self, message: descriptor.Descriptor, number: int
    ) -> descriptor.FieldDescriptor:
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: descriptor.Descriptor) -> list[descriptor.FieldDescriptor]:
        return message.file.pool.FindAllExtensions(message)

    def _first(self, name: str, find: Callable[[descriptor_pool.DescriptorPool], _Found]) -> _Found:
        """Give what is found in the first pool that has it. Raises KeyError."""
        if len(name) > _LONGEST:
            raise KeyError
        *others, last = self._pools
        for pool in others:
            try:
                return find(pool)
            except KeyError:
                continue
        return find(last)


def _pool_of_v1() -> descriptor_pool.DescriptorPool:
    """Make a pool that knows v1, which grpcio-reflection lacks.

    Not the process's own pool: a package that brings v1 could not add it there any more.
    """
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
    return pool


def _parsed(data: bytes) -> reflection_pb2.ServerReflectionRequest:
    """Parse a request; one that makes no sense becomes an empty one, whose answer is an error and
    not the stream's end."""
    if has_many_fields(data):
        return reflection_pb2.ServerReflectionRequest()
    try:
        return reflection_pb2.ServerReflectionRequest.FromString(data)
    except DecodeError:
        return reflection_pb2.ServerReflectionRequest()
