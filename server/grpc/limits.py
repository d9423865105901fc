"""Request messages that are refused before their handlers see them: over a limit, which is looked
at before they are parsed, or none at all.

A message of 4 MB may have two million entries, which take a tenth of a second and 100 MB to parse,
on the event loop. The bytes tell their number: entries of the outermost message are counted, up to
the limit and no further.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from loramux.v1 import inference_pb2

from lora_runtime import InvalidRequestError, RequestLimits

from .. import errors
from ..request_ids import request_id_of
from .calls import PerHandler, shape

_FIELDS = 256
"""Most fields of a message that are no entries of a list."""
_LISTED = 1 << 13
"""Most fields of a message that are entries of lists: to count them takes some milliseconds."""
_TEXT_BYTES = 64 << 10
"""Most bytes of a message, but for what the model is to read: more than ids, paths and URLs have.
A call holds its message until it ends."""
_ENTRY_FIELDS = 16
"""Most fields of an entry of a list: the same one a million times is parsed as one."""
_VALUE_FIELDS = 5 << 10
"""Most fields of values that have others in them: more than so many values have as an engine takes."""
_MESSAGE_FIELDS = 8
"""Most fields of a turn with its parts and calls, on average over as many turns as there may be."""
_LEAST_TURNS = 1024
_INNER_LEVELS = 64
"""Most messages within each other there: more than values have, and fewer than a parser takes."""
_VARINT_BYTES = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PACKED = {"token_ids", "stop_token_ids"}
_ENTRIES = {"adapters", "logit_bias"}
_LONG = {
    *("prompt", "messages", "token_ids", "stop", "stop_token_ids"),
    *("tools", "documents", "structured"),
}
_SIZED = "structured"
"""Field whose bytes are counted."""
SIZED_FRAME = 16
"""Bytes of it around its text."""


@dataclass(frozen=True)
class Refused:
    """Takes the place of a request that is over a limit, or no message: what its caller is told."""

    field: str
    description: str


class LimitInterceptor(grpc.aio.ServerInterceptor):
    """Interceptor that answers INVALID_ARGUMENT to requests over the limits, before anything looks
    at what they have in them, and to bytes that are no request."""

    def __init__(self, limits: Callable[[], RequestLimits]) -> None:
        self._limits = limits
        self._limited = PerHandler(self._limit)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        return None if handler is None else self._limited.of(details.method, handler)

    def _limit(self, handler: Any) -> Any:
        """Make a handler that is told of what is over a limit; one of another kind stays as it is."""
        if handler.request_streaming or (parse := handler.request_deserializer) is None:
            return handler
        kind = getattr(parse, "__self__", None)  # it is the message's FromString
        if not isinstance(descriptor := getattr(kind, "DESCRIPTOR", None), Descriptor):
            return handler

        def read(data: bytes) -> Message | Refused:
            try:
                return over_limit(data, descriptor, self._limits()) or parse(data)
            except DecodeError:
                return Refused("message", f"is no {descriptor.full_name}")

        make, behavior = shape(handler)
        return make(_guarded(behavior), read, handler.response_serializer)


def over_limit(data: bytes, message: Descriptor, limits: RequestLimits) -> Refused | None:
    """Find what is over the limits in the bytes of a message."""
    names = _names(message)
    most = limits.at_most() if message is inference_pb2.GenerateRequest.DESCRIPTOR else {}
    counts: dict[str, int] = {}
    left = {
        "chat_template_kwargs": _VALUE_FIELDS,
        "messages": _MESSAGE_FIELDS * max(_LEAST_TURNS, most.get("messages", 0)),
    }
    fields = short = 0
    try:
        for number, length, end in _fields(data):
            name = names.get(number, "message")
            if name not in _LONG and (short := short + max(0, length)) > _TEXT_BYTES:
                return Refused(name, f"over {_TEXT_BYTES} bytes, with the fields before it")
            if length >= 0 and name in left and (kind := _kinds(message).get(number)):
                left[name] -= _inner_fields(data, end - length, end, kind, left[name])
                if left[name] < 0:
                    return Refused(name, "has too many values, or too many levels of them")
            if name not in most:
                counts[""] = counts.get("", 0) + 1
                if counts[""] > _FIELDS:
                    return Refused("message", f"has over {_FIELDS} fields")
                continue
            if name in _ENTRIES and has_many_fields(data, _ENTRY_FIELDS, end - length, end):
                return Refused(name, f"an entry has over {_ENTRY_FIELDS} fields")
            # A packed list is one field with so many ids at least; parsed ones are counted again.
            entries = max(1, length // _VARINT_BYTES) if name in _PACKED else 1
            if name == _SIZED:
                entries = max(0, length - SIZED_FRAME)
            counts[name] = counts.get(name, 0) + entries
            if counts[name] > most[name]:
                return Refused(name, limits.excess(name))
            if (fields := fields + 1) > _LISTED:
                return Refused(name, f"over {_LISTED} entries that are not packed into one field")
    except (IndexError, ValueError):
        pass  # no message at all, as its parser will say
    return None


def has_many_fields(
    data: bytes, most: int = _FIELDS, start: int = 0, end: int | None = None
) -> bool:
    """True if a message, or the one in `data[start:end]`, has more fields than makes sense."""
    try:
        return next(islice(_fields(data, start, end), most, None), None) is not None
    except (IndexError, ValueError):
        return False  # no message at all, as its parser will say


def _inner_fields(data: bytes, start: int, end: int, message: Descriptor, most: int) -> int:
    """Count the fields of a message and of those within it; more than `most` if there are so many,
    or too many levels of them."""
    count, waiting = 0, [(start, end, message, 1)]
    while waiting:
        start, end, message, level = waiting.pop()
        if level > _INNER_LEVELS:
            return most + 1
        kinds = _kinds(message)
        for number, length, stop in _fields(data, start, end):
            if (count := count + 1) > most:
                return count
            if length >= 0 and (inner := kinds.get(number)) is not None:
                waiting.append((stop - length, stop, inner, level + 1))
    return count


@cache
def _kinds(message: Descriptor) -> dict[int, Descriptor]:
    """Kinds of the messages within one, by their field's number."""
    return {f.number: f.message_type for f in message.fields if f.message_type is not None}


@cache
def _names(message: Descriptor) -> dict[int, str]:
    return {field.number: field.name for field in message.fields}


def _fields(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Give the number of each field, of its text or message the length, else -1, and its end.

    Fields of a group, which none of the messages has, come as those of the message.
    """
    end = len(data) if end is None else end
    while at < end:
        tag, at = _varint(data, at)
        kind, length = tag & 7, -1
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _BYTES:
            length, at = _varint(data, at)
            at += length
        yield tag >> 3, length, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number; gives it and where the next field begins. Raises IndexError, ValueError."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift >= 7 * _VARINT_BYTES:
            raise ValueError("no varint")


def _guarded(behavior: Callable[..., Any]) -> Callable[..., Any]:
    """Let `behavior` see no Refused. What it gives is passed on as it is: no layer around each
    event of a stream."""

    async def refuse(refused: Refused, context: grpc.aio.ServicerContext) -> None:
        error = InvalidRequestError.of(refused.field, refused.description)
        await errors.abort(context, error, request_id_of(context), field=refused.field)

    async def refuse_stream(
        refused: Refused, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[None]:
        await refuse(refused, context)
        yield

    async def guarded(request: Any, context: grpc.aio.ServicerContext) -> Any:
        return await (refuse if isinstance(request, Refused) else behavior)(request, context)

    def guarded_stream(request: Any, context: grpc.aio.ServicerContext) -> Any:
        return (refuse_stream if isinstance(request, Refused) else behavior)(request, context)

    return guarded if inspect.iscoroutinefunction(behavior) else guarded_stream
