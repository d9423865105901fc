"""Errors in OpenAI's form: the runtime's by the table in server/errors.py, and HTTP's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from lora_runtime import AdapterUnavailableError, InvalidRequestError, UnknownAdapterError

from .. import errors
from ..logs import limited

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    499: "cancelled_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
_CODES = {"unknown_adapter": "model_not_found", "internal": "internal_error"}
"""Codes that OpenAI's clients know, by the reason that gRPC's callers get."""
_LOGGED = (401, 403)
"""Statuses that have a line already, with the caller's name."""
_FIELDS = {"adapter_id": "model"}


class HttpError(Exception):
    """Error of the front itself: what was sent is no request at all, or not allowed."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})
        super().__init__(message)


def response(
    error: BaseException,
    request_id: str,
    fields: Mapping[str, str] | None = None,
    **logged: Any,
) -> JSONResponse:
    """Make the answer that tells a caller of `error`; it is logged as in errors.told.

    `fields`: names that callers know, by the runtime's.
    """
    status, headers = 0, {}
    if isinstance(error, HttpError):
        status, headers = error.status, error.headers
    elif (seconds := errors.retry_after_s(error)) is not None:
        headers = _retry(seconds)
    found, body = _told(error, request_id, fields or {}, logged)
    return JSONResponse(body, status or found, headers)


def body(
    error: BaseException,
    request_id: str,
    fields: Mapping[str, str] | None = None,
    **logged: Any,
) -> dict[str, Any]:
    """Make the same as an object, for streams that have begun."""
    return _told(error, request_id, fields or {}, logged)[1]


def _told(
    error: BaseException, request_id: str, fields: Mapping[str, str], logged: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    if isinstance(error, HttpError):
        told = form(error.status, error.message, error.param, error.code)
        errors.let_go(error)
        if logged and error.status not in _LOGGED:
            limited(
                "request rejected",
                error.code,
                request_id=request_id,
                reason=error.code,
                **logged,
                error=error.message,
            )
        return error.status, told
    fields = _FIELDS | dict(fields)
    param, text = _param(error, fields), _text(error, fields)
    found, message = errors.told(error, request_id, **logged)
    errors.let_go(error)
    told = form(found.http, text or message, param, _CODES.get(found.reason, found.reason))
    return found.http, told


def form(status: int, message: str, param: str | None, code: str) -> dict[str, Any]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _param(error: BaseException, fields: Mapping[str, str]) -> str | None:
    if isinstance(error, UnknownAdapterError | AdapterUnavailableError):
        return "model"
    if isinstance(error, InvalidRequestError) and error.violations:
        field = error.violations[0].field
        return fields.get(field, field)
    return None


def _text(error: BaseException, fields: Mapping[str, str]) -> str:
    """Words of a refusal, with the names that its caller knows; empty for other errors."""
    if not isinstance(error, InvalidRequestError):
        return ""
    told = [f"{fields.get(v.field, v.field)}: {v.description}" for v in error.violations]
    return errors.cut("; ".join(told))


def _retry(seconds: float) -> dict[str, str]:
    """Headers that OpenAI's clients heed: when to come back, or not to."""
    if seconds == math.inf:
        return {"x-should-retry": "false"}
    return {
        "retry-after-ms": str(errors.milliseconds(seconds)),
        "retry-after": str(math.ceil(seconds)),
    }
