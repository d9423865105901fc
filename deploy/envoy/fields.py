"""Prints what Envoy reads an adapter's name out of a call with, in base64: of inference.proto the two
methods that run one, and of their messages the fields that name it.

    PYTHONPATH=protos python deploy/envoy/fields.py
"""

from __future__ import annotations

import base64

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from loramux.v1 import inference_pb2

FIELDS = {
    "GenerateRequest": ("adapter_id", "adapters"),
    "WeightedAdapter": ("adapter_id",),
    "GenerateResponse": (),
    "GenerateStreamResponse": (),
}
"""Messages, and what is read of each; a field that is not here is skipped, as any unknown one."""
METHODS = ("Generate", "GenerateStream")


def descriptors() -> FileDescriptorSet:
    """Make the descriptors that Envoy's filter needs, out of those of the API."""
    whole = FileDescriptorProto()
    inference_pb2.DESCRIPTOR.CopyToProto(whole)
    part = FileDescriptorProto(name=whole.name, package=whole.package, syntax=whole.syntax)
    kept = (message for message in whole.message_type if message.name in FIELDS)
    part.message_type.extend(map(_named, kept))
    for service in whole.service:
        found = part.service.add(name=service.name)
        found.method.extend(method for method in service.method if method.name in METHODS)
    return FileDescriptorSet(file=[part])


def _named(message: DescriptorProto) -> DescriptorProto:
    part = DescriptorProto(name=message.name)
    part.field.extend(field for field in message.field if field.name in FIELDS[message.name])
    for field in part.field:
        field.ClearField("oneof_index")
    return part


if __name__ == "__main__":
    print(base64.b64encode(descriptors().SerializeToString()).decode())
