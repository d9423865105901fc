"""An OpenTelemetry collector in the process: what it was sent, as spans with parents."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

STATUS_ERROR = 2


@dataclass(frozen=True)
class Sent:
    """One span as it was sent."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    begun: int
    ended: int
    attributes: dict[str, Any]
    events: list[str]
    status: int
    resource: dict[str, Any]


class Collector(service.TraceServiceServicer):
    """A collector; while `open` is not set it answers nobody."""

    def __init__(self) -> None:
        self.spans: list[Sent] = []
        self.bodies: list[bytes] = []
        self.asked, self.open = threading.Event(), threading.Event()
        self.open.set()
        self.url = ""

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> Any:
        self.asked.set()
        self.open.wait(60)
        self.bodies.append(request.SerializeToString())
        for of_resource in request.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [_sent(span, resource) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    async def until(self, is_there: Callable[[list[Sent]], bool]) -> list[Sent]:
        """The spans, once they are what is waited for; fails if that takes long."""
        for _ in range(1000):
            if is_there(self.spans):
                return self.spans
            await asyncio.sleep(0.02)
        raise AssertionError([(s.name, s.attributes) for s in self.spans])

    async def trace(self, trace_id: str, spans: int) -> list[Sent]:
        """The spans of one trace, in the order of their begins, once there are so many."""

        def of_it() -> list[Sent]:
            return [s for s in self.spans if s.trace_id == trace_id]

        await self.until(lambda _: len(of_it()) >= spans)
        return sorted(of_it(), key=lambda span: (span.begun, -span.ended))


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(collector, server)
    collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        collector.open.set()
        server.stop(0)


def tree(spans: list[Sent]) -> dict[str, Any]:
    """Names of spans within each other, from the one whose parent was not sent."""
    ids = {span.span_id for span in spans}

    def below(parent: str) -> dict[str, Any]:
        return {span.name: below(span.span_id) for span in spans if span.parent_id == parent}

    (root,) = (span for span in spans if span.parent_id not in ids)
    return {root.name: below(root.span_id)}


def _sent(span: Any, resource: dict[str, Any]) -> Sent:
    return Sent(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        [event.name for event in span.events],
        span.status.code,
        resource,
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
