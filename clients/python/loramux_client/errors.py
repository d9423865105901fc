"""Errors of calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from . import details

_STATUS = "grpc-status-details-bin"


@dataclass(frozen=True)
class FieldViolation:
    """What is wrong with one field of a request, or which limit of whom is reached."""

    field: str
    description: str


class CallError(Exception):
    """Error of a call; the message says in a line, or a few, what a person can act on.

    `code` is None where no call was made.
    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode | None = None,
        *,
        details: str = "",
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
        resource: str = "",
        request_id: str = "",
    ) -> None:
        self.code = code
        self.details = details or message
        """The server's own words, without the rest of the message."""
        self.reason = reason
        """The reason in a word, such as QUEUE_FULL."""
        self.violations = violations
        self.retry_after_s = retry_after_s
        """Seconds after which to come back; None where the server names none."""
        self.resource = resource
        """Id of the adapter that is missing or cannot be brought in."""
        self.request_id = request_id
        """What the server's log calls the request."""
        super().__init__(message)


def of_closed() -> CallError:
    """Make the error of a call whose client is closed."""
    return CallError("CANCELLED: the client was closed", grpc.StatusCode.CANCELLED)


def from_rpc(error: Any) -> CallError:
    """Make the error of a call that gRPC ended with `error`."""
    code, words = error.code(), error.details() or ""
    found = _read(error)
    bad = _violations(found.get("google.rpc.BadRequest"))
    quota = _violations(found.get("google.rpc.QuotaFailure"))
    retry, request = found.get("google.rpc.RetryInfo"), found.get("google.rpc.RequestInfo")
    resource, reason = found.get("google.rpc.ResourceInfo"), found.get("google.rpc.ErrorInfo")
    after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if retry else None
    lines = [f"{code.name}: {words}"]
    lines += [f"  {one.field}: {one.description}" for one in (*bad, *quota)]
    lines += [f"  retry after {after:g} s"] if after is not None else []
    lines += [f"  request id {request.request_id}"] if request else []
    return CallError(
        "\n".join(lines),
        code,
        details=words,
        reason=reason.reason if reason else "",
        violations=(*bad, *quota),
        retry_after_s=after,
        resource=resource.resource_name if resource else "",
        request_id=request.request_id if request else "",
    )


def _read(error: Any) -> dict[str, Any]:
    """Read the details; a proxy's, which are none of ours, are none."""
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS:
            try:
                return details.read(value)
            except DecodeError:
                return {}
    return {}


def _violations(found: Any) -> tuple[FieldViolation, ...]:
    if found is None:
        return ()
    return tuple(FieldViolation(v.subject, v.description) for v in found.violations)
