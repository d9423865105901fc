"""OpenTelemetry's parts of one server: its sampler, its batches, its exporter, and their end."""

from __future__ import annotations

import threading

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from lora_runtime import Engine, __version__

from .calls import Calls
from .spans import RequestSpans
from .writer import SpanWriter

_WRITE_S = 0.5
_FLUSH_S = 2.0
"""Most seconds that the last spans may take at a stop, made and sent: a collector may be gone."""


class Tracing:
    """Traces of one server. Sampler, batches, headers, TLS and the resource are as the standard
    OTEL_* environment says."""

    def __init__(self, endpoint: str, protocol: str) -> None:
        """Begin to export to `endpoint`, or where the environment says. Raises what the
        environment's variables make OpenTelemetry raise."""
        self._exporter = _exporter(endpoint, protocol)
        # Not at the interpreter's exit: that would wait for the collector.
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        tracer = self._provider.get_tracer("loramux", __version__)
        self._spans = RequestSpans(tracer)
        self._writer = SpanWriter(self._spans.write)
        self.calls = Calls(tracer, self._writer)

    def attach(self, engine: Engine, base_name: str) -> None:
        """Take events from `engine`. `base_name`: what its base is called in spans."""
        self._spans.base_name = base_name
        engine.add_observer(self.calls)

    def stop(self) -> None:
        """Send the last spans, if the collector takes them soon. Waits; call it on a thread."""
        self._writer.stop(_WRITE_S)
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)
        if flushing.is_alive():
            self._exporter.shutdown()


def _exporter(endpoint: str, protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint or None)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

    return OverHttp(endpoint or None)


def _resource() -> Resource:
    """Make the resource; what the environment says of it counts."""
    own = {"service.name": "loramux", "service.version": __version__}
    return Resource.create(own).merge(OTELResourceDetector().detect())
