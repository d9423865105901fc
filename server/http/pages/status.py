"""Pages about what runs now and which adapters there are, as gRPC's calls tell them."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.responses import JSONResponse, Response

from ...auth.rules import Right
from ..calls import Call


async def status(call: Call) -> Response:
    """Tell what runs now, as gRPC's GetStatus; adapters outside the caller's scope are counted."""
    call.allow(Right.READ)
    told = await call.read(lambda: _as_json(call.parts.reports.status(call.who)))
    return JSONResponse(told)


def _as_json(message: Message) -> dict[str, Any]:
    """Give a message with its fields' own names, those that are zero too."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
