"""Details of errors: google.rpc's messages as far as loramux sends them.

They are declared here, in a pool of their own, so that the client needs no package but grpcio and
protobuf, and meets no other declaration of the same names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TEXT, _NUMBER = "string", "int64"
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    # name: {field: (number, type, whether it is a list)}
    "Packed": {"type_url": (1, _TEXT, False), "value": (2, "bytes", False)},
    "Status": {
        "code": (1, "int32", False),
        "message": (2, _TEXT, False),
        "details": (3, "Packed", True),
    },
    "Violation": {
        # BadRequest calls it a field, QuotaFailure a subject.
        "subject": (1, _TEXT, False),
        "description": (2, _TEXT, False),
    },
    "Violations": {"violations": (1, "Violation", True)},
    "Duration": {"seconds": (1, _NUMBER, False), "nanos": (2, "int32", False)},
    "RetryInfo": {"retry_delay": (1, "Duration", False)},
    "RequestInfo": {"request_id": (1, _TEXT, False)},
    "ResourceInfo": {"resource_type": (1, _TEXT, False), "resource_name": (2, _TEXT, False)},
    "ErrorInfo": {"reason": (1, _TEXT, False), "domain": (2, _TEXT, False)},
}
_OF = {
    "google.rpc.BadRequest": "Violations",
    "google.rpc.QuotaFailure": "Violations",
    "google.rpc.RetryInfo": "RetryInfo",
    "google.rpc.RequestInfo": "RequestInfo",
    "google.rpc.ResourceInfo": "ResourceInfo",
    "google.rpc.ErrorInfo": "ErrorInfo",
}
_PACKAGE = "loramux_client"


def read(status: bytes) -> dict[str, Any]:
    """Details of a google.rpc.Status by their names, such as google.rpc.RetryInfo."""
    found: dict[str, Any] = {}
    for packed in _CLASSES["Status"].FromString(status).details:
        name = packed.type_url.rpartition("/")[2]
        if name in _OF:
            found[name] = _CLASSES[_OF[name]].FromString(packed.value)
    return found


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_file().SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="loramux_client/details.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, many) in fields.items():
            one = message.field.add(name=field, number=number)
            one.label = one.LABEL_REPEATED if many else one.LABEL_OPTIONAL
            if kind in _MESSAGES:
                one.type, one.type_name = one.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                one.type = one.Type.Value(f"TYPE_{kind.upper()}")
    return file


_CLASSES = _classes()
