"""Spans of a request that ended in each of its phases, and the queue of those to be made."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from lora_runtime import (
    AdapterUse,
    FinishReason,
    InvalidRequestError,
    QueueFullError,
    Request,
    RequestRecord,
    SamplingParams,
)
from server.tracing.request import RequestEnd, RequestTrace, now
from server.tracing.spans import RequestSpans
from server.tracing.writer import SpanWriter


class Spans:
    """A maker of spans, and what it made."""

    def __init__(self) -> None:
        self._sent, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._sent))
        self.tracer = provider.get_tracer("tests")
        self.maker = RequestSpans(self.tracer)
        self.maker.base_name = "base"

    def trace(self, request: Request) -> RequestTrace:
        call = self.tracer.start_span("call")
        return RequestTrace(request, "1f", api.set_span_in_context(call, Context()))

    def made(self) -> list[Any]:
        return sorted(self._sent.get_finished_spans(), key=lambda s: (s.start_time, -s.end_time))


def record(**fields: Any) -> RequestRecord:
    defaults: dict[str, Any] = {
        "request_id": "r",
        "adapter_id": "a0",
        "adapter_version": "v",
        "outcome": "ok",
        "prompt_tokens": 3,
        "cached_tokens": 2,
        "completion_tokens": 0,
        "queue_s": 1.0,
        "ttft_s": None,
        "e2e_s": 1.0,
        "adapters": (AdapterUse("a0", "v"),),
    }
    return RequestRecord(**(defaults | fields))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ["queue"]),
        ({"e2e_s": 2.0}, ["queue", "prefill"]),
        ({"e2e_s": 3.0, "ttft_s": 2.0}, ["queue", "prefill", "decode"]),
        ({"e2e_s": 2.0, "adapter_wait_s": 0.5}, ["queue", "adapter load", "prefill"]),
    ],
    ids=["queue", "prefill", "decode", "load"],
)
def test_a_request_has_the_phases_that_it_came_to(fields: dict[str, Any], names: list[str]) -> None:
    spans, ended = Spans(), now()
    trace = spans.trace(Request("x", adapter_id="a0"))
    trace.begun = ended - 4 * 10**9
    spans.maker.write(RequestEnd(trace, ended, record(outcome="timeout", **fields)))
    request, *phases = spans.made()
    assert request.name == "text_completion a0"
    assert [s.name for s in phases] == names
    assert phases[0].start_time == ended - int(record(**fields).e2e_s * 1e9)
    assert phases[-1].end_time == ended
    assert request.status.status_code is api.StatusCode.ERROR
    assert request.attributes["error.type"] == "timeout"


def test_a_request_that_ends_twice_has_one_span() -> None:
    spans = Spans()
    trace = spans.trace(Request(token_ids=(1,)))
    spans.maker.write(RequestEnd(trace, now(), error=QueueFullError(8, 1.0)))
    spans.maker.write(RequestEnd(trace, now(), record(outcome="cancelled")))
    (request,) = spans.made()
    assert request.name == "text_completion base"
    assert request.attributes["loramux.outcome"] == "queue_full"


def test_finish_reasons_are_openai_s_words() -> None:
    spans = Spans()
    reasons = (FinishReason.EOS, FinishReason.STOP, FinishReason.LENGTH)
    trace = spans.trace(Request("x"))
    spans.maker.write(RequestEnd(trace, now(), record(finish_reasons=reasons)))
    (request,) = (s for s in spans.made() if s.name == "text_completion base")
    assert request.attributes["gen_ai.response.finish_reasons"] == ("stop", "stop", "length")


def test_whoever_ends_a_request_never_waits_for_its_spans() -> None:
    may_go, met = threading.Event(), []

    def write(end: RequestEnd) -> None:
        may_go.wait(20)
        met.append(end)
        if len(met) == 1:
            raise ValueError("one that cannot be made")

    writer = SpanWriter(write, size=3)
    ends = [RequestEnd(RequestTrace(Request("x"), "1f", None), now()) for _ in range(9)]
    for end in ends:
        writer.put(end)
    with capture_logs() as lines:
        may_go.set()
        writer.stop(20)
    told = [line["count"] for line in lines if line["event"] == "requests without spans"]
    assert sum(told) == writer.dropped
    assert len(met) + writer.dropped == 9
    assert 3 <= len(met) <= 4
    assert met[1:] == ends[1 : len(met)]


def test_what_callers_write_is_bounded() -> None:
    """Of what is refused, too: spans wait for a collector, and go to it with those of others."""
    spans = Spans()
    sampling = SamplingParams(max_new_tokens=10**30, n=-(10**30))
    trace = spans.trace(Request(prompt="x", adapter_id="x" * 60_000, sampling=sampling))
    trace.note_load(trace.adapter_ids, now(), now())
    spans.maker.write(RequestEnd(trace, now(), error=InvalidRequestError.of("adapter_id", "long")))
    assert len(encode_spans(spans.made()).SerializeToString()) < 2000
    request = spans.made()[0].attributes
    most = 2**63 - 1
    assert request["gen_ai.request.max_tokens"] == most
    assert request["gen_ai.request.choice.count"] == -most
