"""Spans of calls over both fronts, with their callers' traces as parents."""

from __future__ import annotations

import os
from collections.abc import Iterable

import grpc
import structlog
from opentelemetry import propagate
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lora_runtime import EngineObserver, Request, RequestRecord

from .current import CALL, TracedCall
from .request import RequestEnd, RequestTrace, now
from .writer import SpanWriter

Headers = Iterable[tuple[str, str | bytes]]
_OWN = "loramux.v1."
_READS = ("Get", "List")
_Code = grpc.StatusCode
_FAULTS = {
    _Code.UNKNOWN,
    _Code.DEADLINE_EXCEEDED,
    _Code.UNIMPLEMENTED,
    _Code.INTERNAL,
    _Code.UNAVAILABLE,
    _Code.DATA_LOSS,
}
"""Codes that are errors of a server's span: the others are its callers' doing."""


class _Getter(Getter[Headers]):
    """Getter of headers or metadata, whose names come in any case."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        name = key.lower()
        found = [v for k, v in carrier if k.lower() == name and isinstance(v, str)]
        return found or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name for name, _ in carrier]


_GETTER = _Getter()


class CallSpan(TracedCall):
    """A call's span: it ends once, by `rpc_ended` or `http_ended`."""

    def __init__(self, span: Span, writer: SpanWriter) -> None:
        context = span.get_span_context()
        parent = api.set_span_in_context(span, Context()) if span.is_recording() else None
        super().__init__(api.format_trace_id(context.trace_id), parent, writer.put)
        self._span = span

    def rpc_ended(self, code: grpc.StatusCode) -> None:
        self._span.set_attribute("rpc.grpc.status_code", code.value[0])
        self._end(code.name if code in _FAULTS else "")

    def http_ended(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        self._end(str(status) if status >= 500 else "")

    def _end(self, fault: str) -> None:
        """End the span, but not that of a stranger: without a token nobody fills the queue, however
        the call ends."""
        if self.is_strange:
            return
        if self.request_id:
            self._span.set_attribute("loramux.request.id", self.request_id)
        if fault:
            self._span.set_attribute("error.type", fault)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Calls(EngineObserver):
    """Spans of calls that do something: none of probes, scrapes and what pages look at.

    As the engine's observer it takes the ends of their requests.
    """

    def __init__(self, tracer: Tracer, writer: SpanWriter) -> None:
        self._tracer, self._writer = tracer, writer
        self._propagator = _propagator()

    def rpc_begun(self, method: str, metadata: Headers) -> CallSpan | None:
        """Begin the span of the call that this task serves. `method`: "package.Service/Method"."""
        service, _, name = method.rpartition("/")
        if not service.startswith(_OWN) or name.startswith(_READS):
            return _entered(None)
        told = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        return self._begun(method, metadata, told)

    def http_begun(self, method: str, path: str, headers: Headers) -> CallSpan | None:
        """Begin the same of a call over HTTP; `path`: its route's."""
        if method != "POST":
            return _entered(None)
        told = {"http.request.method": method, "http.route": path}
        return self._begun(f"{method} {path}", headers, told)

    def _begun(self, name: str, headers: Headers, attributes: dict[str, str]) -> CallSpan | None:
        parent = self._propagator.extract(headers, Context(), _GETTER)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        return _entered(CallSpan(span, self._writer))

    def on_adapters_read(self, request: Request, seconds: float) -> None:
        if isinstance(trace := request.trace, RequestTrace):
            ended = now()
            trace.note_load(trace.adapter_ids, ended - int(seconds * 1e9), ended)

    def on_request_finished(self, record: RequestRecord) -> None:
        if isinstance(trace := record.trace, RequestTrace) and trace.parent is not None:
            self._writer.put(RequestEnd(trace, now(), record))


def _propagator() -> TextMapPropagator:
    """Make what reads callers' headers: W3C's trace context, or what the environment names.

    Baggage, which OpenTelemetry reads too by itself, is work for nothing: no span has it.
    """
    if os.environ.get("OTEL_PROPAGATORS"):
        return propagate.get_global_textmap()
    return TraceContextTextMapPropagator()


def _entered(call: CallSpan | None) -> CallSpan | None:
    """Make it the call that runs now, and its trace's id a field of all that the call logs.

    None too: a task may come of another call's, with what that one had.
    """
    CALL.set(call)
    if call is None:
        structlog.contextvars.unbind_contextvars("trace_id")
    else:
        structlog.contextvars.bind_contextvars(trace_id=call.trace_id)
    return call
