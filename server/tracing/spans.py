"""Spans of a request, made when it has ended: queue, adapter load, prefill, decode."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from lora_runtime import MAX_ID_LENGTH, FinishReason, RequestRecord

from ..errors import status_of
from .request import Load, RequestEnd, RequestTrace

_PROVIDER = "loramux"
_ADAPTERS = "loramux.adapter.ids"
_REASONS = {FinishReason.EOS: "stop"}
"""Finish reasons in OpenAI's words, as over HTTP."""
_NS = 1e9


class RequestSpans:
    """Maker of spans."""

    base_name = ""
    """Name of the base model, for requests without an adapter."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def write(self, end: RequestEnd) -> None:
        """Make the spans of a request that has ended, unless they are there."""
        trace = end.trace
        if trace.is_written or not isinstance(trace.parent, Context):
            return
        trace.is_written = True
        operation = "chat" if trace.is_chat else "text_completion"
        # What is refused for the length of its names has spans too: they are cut as in the log.
        model = "+".join(trace.adapter_ids)[:MAX_ID_LENGTH] or self.base_name
        span = self._tracer.start_span(
            f"{operation} {model}",
            trace.parent,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": _PROVIDER,
                "gen_ai.request.model": model,
                **_asked(trace),
            },
            start_time=trace.begun,
        )
        inside = api.set_span_in_context(span, Context())
        _set_end(span, end)
        record = end.record
        for load in trace.loads:
            self._load(inside, load)
        if record is not None:
            self._phases(inside, record, end.at)
            if record.ttft_s is not None:
                first = end.at - _ns(record.e2e_s) + _ns(record.ttft_s)
                span.add_event("first token", timestamp=first)
        span.end(end.at)

    def _phases(self, inside: Context, record: RequestRecord, ended: int) -> None:
        """Make the spans of what the engine did, one behind the other."""
        arrived = ended - _ns(record.e2e_s)
        times = dict(_begins(record))
        marks = [*(arrived + _ns(s) for s in times.values()), ended]
        for name, (begun, until) in zip(times, pairwise(marks), strict=True):
            span = self._tracer.start_span(name, inside, start_time=begun)
            if name == "queue" and record.adapter_wait_s:
                ids = tuple(use.adapter_id for use in record.adapters)
                waited = Load(ids, until - _ns(record.adapter_wait_s), until)
                self._load(api.set_span_in_context(span, Context()), waited)
            span.end(until)

    def _load(self, inside: Context, load: Load) -> None:
        self._tracer.start_span(
            "adapter load",
            inside,
            attributes={_ADAPTERS: load.adapter_ids},
            start_time=load.begun,
        ).end(load.ended)


def _begins(record: RequestRecord) -> Iterator[tuple[str, float]]:
    """Phases that a request has come to, and seconds from its arrival to their begin."""
    yield "queue", 0.0
    if record.queue_s < record.e2e_s:  # else it ended there
        yield "prefill", record.queue_s
        if record.ttft_s is not None:
            yield "decode", record.ttft_s


def _asked(trace: RequestTrace) -> dict[str, Any]:
    """Attributes of what was asked for; nothing of the prompt, or of what a caller wrote."""
    return {
        "gen_ai.request.id": trace.request_id,
        "gen_ai.request.max_tokens": trace.max_tokens,
        "gen_ai.request.temperature": trace.temperature,
        "gen_ai.request.top_p": trace.top_p,
        "gen_ai.request.choice.count": trace.choices,
    }


def _set_end(span: Span, end: RequestEnd) -> None:
    record = end.record
    if record is None:
        _set_outcome(span, "cancelled" if end.error is None else status_of(end.error).reason)
        return
    span.set_attributes(
        {
            _ADAPTERS: [use.adapter_id for use in record.adapters],
            "loramux.adapter.versions": [use.version for use in record.adapters],
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
        }
    )
    if record.finish_reasons:
        told = [_REASONS.get(reason, reason.value) for reason in record.finish_reasons]
        span.set_attribute("gen_ai.response.finish_reasons", told)
    if record.ttft_s is not None:
        span.set_attribute("gen_ai.response.time_to_first_chunk", record.ttft_s)
    _set_outcome(span, record.outcome)


def _set_outcome(span: Span, outcome: str) -> None:
    span.set_attribute("loramux.outcome", outcome)
    if outcome in ("ok", "cancelled"):
        return
    span.set_attribute("error.type", outcome)
    span.set_status(Status(StatusCode.ERROR))


def _ns(seconds: float) -> int:
    return int(seconds * _NS)
