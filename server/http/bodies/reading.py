"""Bodies of requests: bounded in size, then turned into JSON."""

from __future__ import annotations

from typing import Any

from starlette.requests import ClientDisconnect, Request

from ...auth.tokens import Caller, keys_of
from ...threads import Pool, Turns
from ..errors import HttpError
from . import json_text
from .budget import Body, BodyBudget

_QUICK_BYTES = 16 << 10
"""Bytes of a body that is parsed on the event loop: to go to a thread takes longer."""
_BODIES = 32
"""Bodies of the largest size that may be on their way at once."""
_TURNS = 2
"""Bodies of one token's calls that may be parsed, or wait for it, at once."""


class Reader:
    """Reader of one server."""

    def __init__(self, max_bytes: int, threads: Pool) -> None:
        self._max_bytes, self._threads = max_bytes, threads
        self._budget, self._turns = BodyBudget(_BODIES * max_bytes), Turns(_TURNS)

    async def read_object(
        self, request: Request, who: Caller, limits: json_text.Limits
    ) -> dict[str, Any]:
        """Read a JSON object. Raises HttpError, ClientDisconnect."""
        _check_kind(request)
        with self._budget.body() as body:
            data = await _read(request, body, self._max_bytes)
            try:
                value = await self._parsed(data, who, limits)
            except json_text.JSONError as error:
                text = f"the body is no JSON that is taken here: {error}"
                raise HttpError(400, "invalid_json", text) from None
        if not isinstance(value, dict):
            raise HttpError(400, "invalid_json", "the body must be a JSON object")
        return value

    async def _parsed(self, data: bytes, who: Caller, limits: json_text.Limits) -> Any:
        if len(data) <= _QUICK_BYTES:
            return json_text.parse(data, limits)
        async with self._turns.taken(*keys_of(who)):
            return await self._threads.run(lambda: json_text.parse(data, limits))


def _check_kind(request: Request) -> None:
    """Refuse what is not said to be JSON: browsers send that to other sites without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise HttpError(415, "unsupported_media_type", "content-type must be application/json")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HttpError(415, "unsupported_encoding", "content-encoding: bodies must be plain")


async def _read(request: Request, body: Body, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    data = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        if len(data) + len(piece) > max_bytes:
            raise _too_large(max_bytes)
        body.take(len(piece))
        data += piece
        if not message.get("more_body", False):
            return bytes(data)


def _too_large(max_bytes: int) -> HttpError:
    text = f"the body has more than {max_bytes} bytes"
    return HttpError(413, "request_too_large", text)
