"""Prints what Envoy reads requests with, in base64: the descriptors of inference.proto and its imports."""

from __future__ import annotations

import base64

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from loramux.v1 import inference_pb2


def descriptors() -> bytes:
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for one in file.dependencies:
            add(one)
        found.setdefault(file.name, file)

    add(inference_pb2.DESCRIPTOR)
    files = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(files.file.add())
    return files.SerializeToString()


if __name__ == "__main__":
    print(base64.b64encode(descriptors()).decode())
