"""The runtime's errors as gRPC statuses with google.rpc details."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from lora_runtime import (
    AdapterCapacityError,
    AdapterError,
    AdapterInUseError,
    AdapterLimitError,
    AdapterUnavailableError,
    BaseMismatchError,
    EngineStoppedError,
    InvalidRequestError,
    QueueFullError,
    RequestCancelledError,
    RequestTimeoutError,
    UnknownAdapterError,
)

log = structlog.get_logger("loramux.server")
_ADAPTER = "loramux.v1.Adapter"
_MAX_TEXT_BYTES = 1000
"""Limit of each text in a status: it is sent in trailing metadata, in two forms, which clients take
some 8 KiB of."""

# First match wins: BaseMismatchError is an AdapterError. What is not listed is INTERNAL.
_CODES: list[tuple[type[Exception], grpc.StatusCode]] = [
    (UnknownAdapterError, grpc.StatusCode.NOT_FOUND),
    (InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (QueueFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (AdapterLimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (AdapterUnavailableError, grpc.StatusCode.FAILED_PRECONDITION),
    (BaseMismatchError, grpc.StatusCode.FAILED_PRECONDITION),
    (AdapterError, grpc.StatusCode.INVALID_ARGUMENT),
    (AdapterInUseError, grpc.StatusCode.FAILED_PRECONDITION),
    (AdapterCapacityError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (RequestTimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (RequestCancelledError, grpc.StatusCode.CANCELLED),
    (EngineStoppedError, grpc.StatusCode.UNAVAILABLE),
    (PermissionError, grpc.StatusCode.PERMISSION_DENIED),
]


async def abort(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    """End the call with the status that `error` maps to."""
    code = next(
        (code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL
    )
    message = str(error)
    if code is grpc.StatusCode.INTERNAL:
        log.error("call failed", error=repr(error), exc_info=error)
        # The details are in the log, not for callers.
        message = "the server failed to serve this request"
    elif isinstance(error, OSError) and error.errno is not None:
        message = "a file or directory cannot be read"  # its own text has the whole path
    message = cut(message)
    status = status_pb2.Status(
        code=code.value[0], message=message, details=[_pack(d) for d in _details(error)]
    )
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status does not return")


def cut(text: str) -> str:
    """Cut `text` to the part that a status has room for."""
    data = text.encode(errors="replace")
    if len(data) <= _MAX_TEXT_BYTES:
        return text
    return data[:_MAX_TEXT_BYTES].decode(errors="ignore") + "..."


def _details(error: Exception) -> Sequence[Message]:
    if isinstance(error, UnknownAdapterError | AdapterUnavailableError):
        return [
            error_details_pb2.ResourceInfo(
                resource_type=_ADAPTER,
                resource_name=cut(error.adapter_id),
                description=cut(str(error)),
            )
        ]
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation
        return [
            error_details_pb2.BadRequest(
                field_violations=[
                    violation(field=v.field, description=cut(v.description))
                    for v in error.violations
                ]
            )
        ]
    if isinstance(error, QueueFullError):
        return [_retry_info(error.retry_after_s)]
    if isinstance(error, AdapterLimitError):
        violation = error_details_pb2.QuotaFailure.Violation
        quota = violation(subject=f"{_ADAPTER}:{error.adapter_id}", description=str(error))
        return [
            _retry_info(error.retry_after_s),
            error_details_pb2.QuotaFailure(violations=[quota]),
        ]
    return []


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(int(seconds * 1000))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _pack(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
