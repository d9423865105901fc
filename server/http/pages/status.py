"""Pages about what runs now and which adapters there are, as gRPC's calls tell them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from google.protobuf.message import Message
from starlette.responses import Response

from ...auth.rules import Right
from ...errors import cut
from ...message_json import to_dict
from ...operations.adapter_messages import without_modules
from ..calls import Call
from ..errors import HttpError

_DIGITS = 9


async def status(call: Call) -> Response:
    """Tell what runs now, as gRPC's GetStatus; adapters outside the caller's scope are counted."""
    call.allow(Right.READ)
    return await _told(call, lambda: call.parts.reports.status(call.who))


async def list_adapters(call: Call) -> Response:
    """List the adapters in the caller's scope, as gRPC's ListAdapters but without their modules."""
    call.allow(Right.READ)
    query = _query(call, ("page_size", "page_token"))
    size, token = _count(query, "page_size"), query.get("page_token", "")
    pages = call.parts.adapter_pages
    return await _told(call, lambda: pages.page(call.who, size, token, without_modules))


async def _told(call: Call, make: Callable[[], Message]) -> Response:
    body = await call.read(lambda: _as_json(make()))
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def _as_json(message: Message) -> bytes:
    """Give a message by its fields' own names, those that are zero too."""
    return json.dumps(to_dict(message), separators=(",", ":")).encode()


def _query(call: Call, known: Sequence[str]) -> Mapping[str, str]:
    """Give the parameters of the address. Raises HttpError for others, and where one comes twice."""
    given = call.request.query_params.multi_items()
    for number, (name, _) in enumerate(given):
        if name not in known or any(name == other for other, _ in given[:number]):
            raise HttpError(400, "invalid_request", "unknown, or given twice", param=cut(name))
    return dict(given)


def _count(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise HttpError(400, "invalid_request", f"{name} must be a number", param=name)
    return int(text)
