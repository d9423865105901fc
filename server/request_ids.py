"""A call's id: the caller's own, or one that is made up; in the log, in the call's span, and told with
each refusal."""

from __future__ import annotations

import random
import re

import grpc

from .tracing.current import note_request_id

METADATA_KEY = "x-request-id"
_SAFE = re.compile(r"[\x21-\x7e]{1,128}")


def new_id() -> str:
    """Make up an id. It is no secret: random bits of the system would be a call of it each."""
    return f"{random.getrandbits(128):032x}"


def is_safe(request_id: str) -> bool:
    """True if `request_id` can be logged and sent as metadata."""
    return _SAFE.fullmatch(request_id) is not None


def request_id_of(context: grpc.aio.ServicerContext, given: str = "") -> str:
    """Id of a call: the one `given` in its message, or in its metadata, or a new one.

    What is not safe counts as not given.
    """
    found = _found(context, given)
    note_request_id(found)
    return found


def _found(context: grpc.aio.ServicerContext, given: str) -> str:
    if is_safe(given):
        return given
    for key, value in context.invocation_metadata() or ():
        if key == METADATA_KEY and isinstance(value, str) and is_safe(value):
            return value
    return new_id()
