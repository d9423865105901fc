"""Bodies of requests: bounded in size, then turned into JSON."""

from __future__ import annotations

from typing import Any

from starlette.requests import ClientDisconnect, Request

from ..threads import Pool
from . import json_text
from .errors import HttpError

_QUICK_BYTES = 16 << 10
"""Bytes of a body that is parsed on the event loop: to go to a thread takes longer."""
_CLOSE = {"connection": "close"}


async def read_object(
    request: Request, max_bytes: int, max_values: int, threads: Pool
) -> dict[str, Any]:
    """Read a JSON object. Raises HttpError, ClientDisconnect.

    `max_values`: the most numbers, texts, lists and so on that it may have in it.
    """
    _check_kind(request)
    data = await _body(request, max_bytes)
    try:
        if len(data) <= _QUICK_BYTES:
            value = json_text.parse(data, max_values)
        else:
            value = await threads.run(lambda: json_text.parse(data, max_values))
    except json_text.JSONError as error:
        raise HttpError(400, "invalid_json", f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise HttpError(400, "invalid_json", "the body must be a JSON object")
    return value


def _check_kind(request: Request) -> None:
    """Refuse what is not said to be JSON: browsers send that to other sites without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise HttpError(
            415, "unsupported_media_type", "content-type must be application/json", headers=_CLOSE
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HttpError(
            415, "unsupported_encoding", "content-encoding: bodies must be plain", headers=_CLOSE
        )


async def _body(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    data = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        data += message.get("body", b"")
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(data)


def _too_large(max_bytes: int) -> HttpError:
    text = f"the body has more than {max_bytes} bytes"
    return HttpError(413, "request_too_large", text, headers=_CLOSE)
