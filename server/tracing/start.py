"""Start of traces, where a setting or the standard environment asks for them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from .tracing import Tracing

log = structlog.get_logger("loramux.server")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_URL = re.compile(r"(https?|grpc)://[^/\s]+")
"""Of grpc:// the environment says whether there is TLS; the others say it themselves."""
_EXPORTER = "OTEL_TRACES_EXPORTER"
_EXTRA = "needs OpenTelemetry: pip install 'loramux[otel]'"
_MODULES = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
}
"""Where the exporter of each protocol is."""


class TracingError(RuntimeError):
    """Error for traces that cannot be sent as the settings and the environment say."""


def start(endpoint: str, environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """Start traces; None where nothing asks for them. Raises TracingError.

    `endpoint`: a collector's URL, "" for what the environment says.
    """
    asks = _who_asks(endpoint, environ)
    if not asks or not _is_wanted(environ):
        return None
    if endpoint and not _URL.match(endpoint):
        raise TracingError(
            f"--otlp-traces-endpoint: {endpoint!r} is not a URL such as http://collector:4317"
        )
    chosen = next(filter(environ.get, _PROTOCOLS), "")
    protocol = environ.get(chosen, "grpc")
    if protocol not in _MODULES:
        raise TracingError(f"{chosen}: {protocol!r} is none of {', '.join(_MODULES)}")
    if not _is_installed("opentelemetry.sdk") or not _is_installed(_MODULES[protocol]):
        if endpoint:
            raise TracingError(f"--otlp-traces-endpoint {_EXTRA}")
        # A cluster may give all its pods the same environment.
        log.warning("no traces are sent", variable=asks, reason=_EXTRA)
        return None
    try:
        from .tracing import Tracing

        return Tracing(endpoint, protocol)
    except Exception as error:  # what the environment's other variables are made into
        raise TracingError(f"traces cannot be sent: {error}") from error


def _who_asks(endpoint: str, environ: Mapping[str, str]) -> str:
    """Name of the setting or variable that asks for traces; empty if none does."""
    if endpoint:
        return "--otlp-traces-endpoint"
    return next((name for name in (*_ENDPOINTS, _EXPORTER) if environ.get(name)), "")


def _is_wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        log.info("no traces are sent", variable="OTEL_SDK_DISABLED")
        return False
    exporter = environ.get(_EXPORTER) or "otlp"
    if exporter not in ("otlp", "none"):
        raise TracingError(f"{_EXPORTER}: {exporter!r} is none of otlp, none")
    return exporter == "otlp"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
