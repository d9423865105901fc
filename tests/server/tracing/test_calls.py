"""What callers send as their trace: taken where it is one, passed over where it is not."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.logs.setup import OF_CALLERS
from server.tracing.calls import Calls, CallSpan
from server.tracing.current import CALL, note_stranger
from server.tracing.writer import SpanWriter

TRACE, PARENT = "5" * 32, "7" * 16
GOOD = f"00-{TRACE}-{PARENT}-01"
METHOD = "loramux.v1.Inference/Generate"


@pytest.fixture(autouse=True)
def no_call_left() -> Iterator[None]:
    yield
    CALL.set(None)
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def sent() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def calls(sent: InMemorySpanExporter) -> Calls:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(sent))
    return Calls(provider.get_tracer("tests"), SpanWriter(lambda end: None))


def begun(calls: Calls, *headers: tuple[str, str | bytes]) -> CallSpan:
    call = calls.rpc_begun(METHOD, headers)
    assert call is not None
    assert CALL.get() is call
    return call


def test_names_come_in_any_case(calls: Calls) -> None:
    assert begun(calls, ("Traceparent", GOOD)).trace_id == TRACE
    assert calls.http_begun("GET", "/v1/models", [("traceparent", GOOD)]) is None
    assert CALL.get() is None


def test_however_a_stranger_s_call_ends_it_has_no_span(
    calls: Calls, sent: InMemorySpanExporter
) -> None:
    for code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.CANCELLED):
        call = begun(calls)
        note_stranger()
        call.rpc_ended(code)
    over_http = calls.http_begun("POST", "/v1/completions", [])
    assert over_http is not None
    note_stranger()
    over_http.http_ended(499)
    assert not sent.get_finished_spans()
    begun(calls).rpc_ended(grpc.StatusCode.CANCELLED)
    assert len(sent.get_finished_spans()) == 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x" * 8000,
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        GOOD.replace("5", "\u0665"),
        GOOD.encode(),
    ],
    ids=["empty", "long", "no-trace", "no-parent", "version", "digits", "bytes"],
)
def test_what_is_no_trace_begins_one(calls: Calls, header: str | bytes) -> None:
    found = begun(calls, ("traceparent", header)).trace_id
    assert len(found) == 32
    assert found not in (TRACE, "0" * 32)


def test_broken_headers_fill_no_log(calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    for state in ("=", "a=1,a=2", "a=\x01", ",".join(f"k{i}=v" for i in range(50)), "é=ü"):
        begun(calls, ("traceparent", GOOD), ("tracestate", state), ("baggage", "é" * 9000))
    begun(calls, ("traceparent", f"00-{'0' * 32}-{PARENT}-01"))
    met = {record.name for record in caplog.records}
    assert met
    assert met <= set(OF_CALLERS)


def test_other_propagators_are_the_environment_s(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PROPAGATORS", "tracecontext,baggage")
    more = Calls(calls._tracer, calls._writer)
    assert begun(more, ("traceparent", GOOD), ("baggage", "a=1")).trace_id == TRACE
