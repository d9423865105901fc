"""The traced call that runs now, where there are traces. OpenTelemetry is not needed here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from lora_runtime import Request

from .request import RequestEnd, RequestTrace, now


class TracedCall:
    """A call with a span, from its headers to its end."""

    request_id = ""
    """Id of the call as far as it is known."""
    is_strange = False
    """Whether it has no valid token where there are tokens."""

    def __init__(
        self, trace_id: str, parent: object | None, sink: Callable[[RequestEnd], None]
    ) -> None:
        """`parent`: what spans of the call's requests belong to, None where nobody keeps them;
        `sink`: takes the ends of these requests."""
        self.trace_id, self.parent, self.sink = trace_id, parent, sink


CALL: ContextVar[TracedCall | None] = ContextVar("traced_call", default=None)
"""Call whose task this is: threads do not have it."""


def note_request_id(request_id: str) -> None:
    """Give the call that runs now its id, in its span."""
    if (call := CALL.get()) is not None:
        call.request_id = request_id


def note_stranger() -> None:
    """Note that the call that runs now is a stranger's: it has no span."""
    if (call := CALL.get()) is not None:
        call.is_strange = True


@contextmanager
def submitting(request: Request) -> Iterator[Request]:
    """Give the request that is to be submitted, with its trace if the call that runs now has one.

    What raises inside ends the trace; else the engine tells of the end.
    """
    call = CALL.get()
    if call is None:
        yield request
        return
    trace = RequestTrace(request, call.trace_id, call.parent)
    try:
        yield replace(request, trace=trace)
    except (asyncio.CancelledError, GeneratorExit):
        call.sink(RequestEnd(trace, now()))
        raise
    except BaseException as error:
        call.sink(RequestEnd(trace, now(), error=error))
        raise


@contextmanager
def loading(request: Request, adapter_id: str) -> Iterator[None]:
    """Note the time that the block takes as that of a load which the request waits for."""
    if not isinstance(trace := request.trace, RequestTrace):
        yield
        return
    begun = now()
    try:
        yield
    finally:
        trace.note_load((adapter_id,), begun, now())
