"""Server reflection as a client speaks it, and files with one of everything that has a name."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb


def info(channel: grpc.aio.Channel, version: str) -> Any:
    """The method of this version; requests go out as the bytes that they are."""
    return channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=lambda sent: (
            sent if isinstance(sent, bytes) else sent.SerializeToString()
        ),
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )


async def ask(
    channel: grpc.aio.Channel, *requests: pb.ServerReflectionRequest | bytes, version: str
) -> list[pb.ServerReflectionResponse]:
    """The answers to requests of one stream."""
    answers = [answer async for answer in info(channel, version)(iter(requests), timeout=20)]
    assert len(answers) == len(requests)
    return answers


def request(**fields: Any) -> pb.ServerReflectionRequest:
    return pb.ServerReflectionRequest(**fields)


def extension(containing_type: str, number: int) -> pb.ServerReflectionRequest:
    asked = pb.ExtensionRequest(containing_type=containing_type, extension_number=number)
    return request(file_containing_extension=asked)


def files(answer: pb.ServerReflectionResponse) -> list[FileDescriptorProto]:
    assert answer.WhichOneof("message_response") == "file_descriptor_response", answer
    sent = answer.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(data) for data in sent]


def names(answer: pb.ServerReflectionResponse) -> list[str]:
    return [file.name for file in files(answer)]


def error(answer: pb.ServerReflectionResponse) -> int:
    assert answer.WhichOneof("message_response") == "error_response", answer
    assert answer.error_response.error_message
    return answer.error_response.error_code


def zoo() -> descriptor_pool.DescriptorPool:
    """Files with one of everything that has a name: top needs left and right, both need bottom."""
    bottom = FileDescriptorProto(name="bottom.proto", package="zoo", syntax="proto2")
    base = bottom.message_type.add(name="Base")
    base.extension_range.add(start=100, end=200)
    left = FileDescriptorProto(name="left.proto", package="zoo", syntax="proto2")
    right = FileDescriptorProto(name="right.proto", package="zoo", syntax="proto2")
    for file, number in ((left, 101), (right, 103)):
        file.dependency.append("bottom.proto")
        _extend(file.extension.add(name=file.name.removesuffix(".proto")), number)
    top = FileDescriptorProto(name="top.proto", package="zoo", syntax="proto2")
    top.dependency.extend(["left.proto", "right.proto"])
    outer = top.message_type.add(name="Outer")
    outer.oneof_decl.add(name="choice")
    outer.field.add(
        name="field",
        number=1,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
        type=FieldDescriptorProto.TYPE_INT32,
        oneof_index=0,
    )
    inner = outer.nested_type.add(name="Inner")
    inner.enum_type.add(name="Kind").value.add(name="INNER_VALUE", number=0)
    _extend(inner.extension.add(name="nested"), 102)
    top.enum_type.add(name="Kind").value.add(name="VALUE", number=0)
    for name in ("Keeper", "Other"):
        top.service.add(name=name).method.add(
            name="Feed", input_type=".zoo.Outer", output_type=".zoo.Outer.Inner"
        )
    pool = descriptor_pool.DescriptorPool()
    for file in (bottom, left, right, top):
        # The copy in bytes: what a pool is given it may keep.
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _extend(field: FieldDescriptorProto, number: int) -> None:
    field.number, field.extendee = number, ".zoo.Base"
    field.label, field.type = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.TYPE_INT32
