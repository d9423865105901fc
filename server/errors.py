"""The runtime's errors as statuses: the table of both fronts, and gRPC's google.rpc details."""

from __future__ import annotations

import math
import random
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

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
    CallerLimitError,
    EngineStoppedError,
    InvalidRequestError,
    QueueFullError,
    RequestCancelledError,
    RequestTimeoutError,
    UnknownAdapterError,
    UnreadAnswerError,
)

from . import request_ids
from .logs import allowed, limited

log = structlog.get_logger("loramux.server")
_ADAPTER = "loramux.v1.Adapter"
_MAX_TEXT_BYTES = 1000
"""Limit of each text in a status: it is sent in trailing metadata, in two forms, which clients take
some 8 KiB of."""

_DOMAIN = "loramux"
REASON_KEY = "loramux-reason"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_DO_NOT_RETRY = -1
_SPREAD_S = 1.0
_Code = grpc.StatusCode


@dataclass(frozen=True)
class Status:
    """Status of an error on both fronts, and its reason in a word."""

    code: grpc.StatusCode
    http: int
    reason: str


# First match wins: BaseMismatchError is an AdapterError. What is not listed is INTERNAL.
_STATUSES: list[tuple[type[Exception], Status]] = [
    (UnknownAdapterError, Status(_Code.NOT_FOUND, 404, "unknown_adapter")),
    (InvalidRequestError, Status(_Code.INVALID_ARGUMENT, 400, "invalid_request")),
    (QueueFullError, Status(_Code.RESOURCE_EXHAUSTED, 429, "queue_full")),
    (AdapterLimitError, Status(_Code.RESOURCE_EXHAUSTED, 429, "adapter_limit")),
    (CallerLimitError, Status(_Code.RESOURCE_EXHAUSTED, 429, "caller_limit")),
    (AdapterUnavailableError, Status(_Code.FAILED_PRECONDITION, 503, "adapter_unavailable")),
    (BaseMismatchError, Status(_Code.FAILED_PRECONDITION, 400, "base_mismatch")),
    (AdapterError, Status(_Code.INVALID_ARGUMENT, 400, "adapter_invalid")),
    (AdapterInUseError, Status(_Code.FAILED_PRECONDITION, 409, "adapter_in_use")),
    (AdapterCapacityError, Status(_Code.RESOURCE_EXHAUSTED, 503, "adapter_capacity")),
    (UnreadAnswerError, Status(_Code.RESOURCE_EXHAUSTED, 503, "unread")),
    (RequestTimeoutError, Status(_Code.DEADLINE_EXCEEDED, 504, "deadline")),
    (RequestCancelledError, Status(_Code.CANCELLED, 499, "cancelled")),
    (EngineStoppedError, Status(_Code.UNAVAILABLE, 503, "draining")),
    (PermissionError, Status(_Code.PERMISSION_DENIED, 403, "not_permitted")),
]
_INTERNAL = Status(_Code.INTERNAL, 500, "internal")


async def abort(
    context: grpc.aio.ServicerContext, error: BaseException, request_id: str, **logged: Any
) -> NoReturn:
    """End the call with the status that `error` maps to; it is logged as in `told`."""
    found, message = told(error, request_id, **logged)
    details = [
        *_details(error),
        error_details_pb2.ErrorInfo(reason=found.reason.upper(), domain=_DOMAIN),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    status = rpc_status.to_status(
        status_pb2.Status(
            code=found.code.value[0], message=message, details=[_pack(d) for d in details]
        )
    )
    trailers = [
        (request_ids.METADATA_KEY, request_id),
        (REASON_KEY, found.reason),
        *_pushback(error),
    ]
    let_go(error)
    await context.abort(status.code, status.details, (*status.trailing_metadata, *trailers))
    raise AssertionError("abort does not return")


def told(error: BaseException, request_id: str, **logged: Any) -> tuple[Status, str]:
    """Status of an error, and the words for its caller.

    A failure of the server's own is logged; a refusal too, with the fields in `logged`, if there
    are any: what the engine took up has its line from there.
    """
    found, message = status_of(error), str(error)
    if found is _INTERNAL:
        if allowed(f"call failed: {type(error).__name__}"):
            log.error("call failed", request_id=request_id, error=repr(error), exc_info=error)
        # The details are in the log, not for callers.
        message = "the server failed to serve this request"
    elif isinstance(error, OSError) and error.errno is not None:
        message = "a file or directory cannot be read"  # its own text has the whole path
    message = cut(message)
    if logged and found is not _INTERNAL:
        limited(
            "request rejected",
            found.reason,
            request_id=request_id,
            reason=found.reason,
            **logged,
            error=message,
        )
    return found, message


def let_go(error: BaseException) -> None:
    """Let go of what the error's frames hold: a request of megabytes, the file of an adapter.

    Whoever keeps the error, itself in one of its frames at times, would keep that until a full
    garbage collection, which may not come for hours.
    """
    seen: set[int] = set()
    found: list[BaseException | None] = [error]
    while found:
        one = found.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None  # a frame's own function has what its closure names
        found += [one.__cause__, one.__context__]


def status_of(error: BaseException) -> Status:
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), _INTERNAL)


def retry_after_s(error: BaseException) -> float | None:
    """Seconds after which to come back; infinite where time alone changes nothing.

    Where another server may do better at once, None: the client's policy knows when to try. What
    is refused at once comes back spread over as long again, up to a second: all at once it would
    only be refused anew.
    """
    if isinstance(error, QueueFullError | AdapterLimitError | CallerLimitError):
        return error.retry_after_s + random.uniform(0, min(error.retry_after_s, _SPREAD_S))
    # Until somebody makes room, or reads, which is not a matter of time.
    if isinstance(error, AdapterCapacityError | UnreadAnswerError):
        return math.inf
    return None


def _pushback(error: BaseException) -> list[tuple[str, str]]:
    """Trailer for gRPC's own retries: how long to wait, or not to come back."""
    if (seconds := retry_after_s(error)) is None:
        return []
    return [(_PUSHBACK_KEY, str(_DO_NOT_RETRY if seconds == math.inf else milliseconds(seconds)))]


def cut(text: str) -> str:
    """Cut `text` to the part that a status has room for, without halves of characters."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= _MAX_TEXT_BYTES:
        return data.decode()
    return data[:_MAX_TEXT_BYTES].decode(errors="ignore") + "..."


def _details(error: BaseException) -> Sequence[Message]:
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
    if isinstance(error, AdapterLimitError | CallerLimitError):
        violation = error_details_pb2.QuotaFailure.Violation
        quota = violation(subject=_subject(error), description=str(error))
        return [
            _retry_info(error.retry_after_s),
            error_details_pb2.QuotaFailure(violations=[quota]),
        ]
    return []


def _subject(error: AdapterLimitError | CallerLimitError) -> str:
    """Subject of a quota: whose limit it is."""
    if isinstance(error, CallerLimitError):
        return f"caller:{error.caller}"
    return f"{_ADAPTER}:{error.adapter_id}"


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(milliseconds(seconds))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _pack(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
