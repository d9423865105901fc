"""Whether there are traces: by the setting, by the standard environment, and nothing else."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from server.tracing import start as module
from server.tracing.current import CALL
from server.tracing.start import TracingError, start

from ...test_house import modules, targets

OTEL = "opentelemetry"
URL = "http://127.0.0.1:1"
OFF = """
import sys
from server.app import App
from server.config import Settings

app = App(Settings(base="none", http_port=0))
assert app._tracing is None
found = [name for name in sys.modules if name.startswith("opentelemetry")]
assert not found, found
"""


def test_only_the_start_of_traces_imports_opentelemetry() -> None:
    """What is imported with the server, at the heads of its modules, does not."""
    met, left = set(), ["server.app", "server.cli.serve", "server.process"]
    while left:
        if (name := left.pop()) not in met:
            met.add(name)
            left += [found for found in _at_head(name) if found in modules()]
    assert {"server.tracing.start", "server.tracing.current", "server.http.app"} <= met
    assert not {"server.tracing.tracing", "server.tracing.calls", "server.tracing.spans"} & met
    found = {name for name in met for other in _at_head(name) if other.startswith(OTEL)}
    assert not found


def _at_head(module: str) -> Iterator[str]:
    """Names that a module imports whenever it is imported itself."""
    tree = ast.parse(modules()[module].read_text())
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from targets(module, node)


@pytest.mark.slow
def test_where_traces_are_off_nothing_of_them_is_imported() -> None:
    root = Path(module.__file__).parents[2]
    environ = {"PYTHONPATH": f"{root}:{root / 'protos'}:{root / 'clients/python'}"}
    done = subprocess.run([sys.executable, "-c", OFF], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("endpoint", "environ", "is_on"),
    [
        ("", {}, False),
        (URL, {}, True),
        ("grpc://127.0.0.1:1", {"OTEL_EXPORTER_OTLP_TRACES_INSECURE": "true"}, True),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": URL}, True),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL}, True),
        ("", {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ("", {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, False),
        (URL, {"OTEL_SDK_DISABLED": "true"}, False),
        (URL, {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
    ids=["nothing", "flag", "grpc", "env", "env-traces", "exporter", "others", "disabled", "none"],
)
def test_what_switches_traces_on(endpoint: str, environ: dict[str, str], is_on: bool) -> None:
    tracing = start(endpoint, environ)
    assert (tracing is not None) is is_on
    if tracing is not None:
        tracing.stop()


@pytest.mark.parametrize(
    ("endpoint", "environ", "says"),
    [
        ("collector:4317", {}, "--otlp-traces-endpoint: 'collector:4317' is not a URL"),
        (URL, {"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: 'zipkin'"),
        (URL, {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        (URL, {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "x"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
    ],
    ids=["endpoint", "exporter", "protocol", "traces-protocol"],
)
def test_what_cannot_be_is_refused_by_name(
    endpoint: str, environ: dict[str, str], says: str
) -> None:
    with pytest.raises(TracingError, match=says):
        start(endpoint, environ)


def test_a_broken_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(TracingError, match="'soon'"):
        start(URL, {})


def test_the_flag_needs_the_extra_and_the_environment_warns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(TracingError, match=r"loramux\[otel\]"):
        start(URL, {})
    with capture_logs() as lines:
        assert start("", {"OTEL_EXPORTER_OTLP_ENDPOINT": URL}) is None
    (line,) = lines
    assert line["variable"] == "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is None,
    reason="opentelemetry-exporter-otlp-proto-http is not installed",
)
def test_over_http() -> None:
    bodies: list[bytes] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Taker) as taker:
        threading.Thread(target=taker.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{taker.server_port}/v1/traces"
        tracing = start(url, {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"})
        assert tracing is not None
        call = tracing.calls.http_begun("POST", "/v1/completions", [])
        assert call is not None
        call.http_ended(200)
        CALL.set(None)
        tracing.stop()
        taker.shutdown()
    (body,) = bodies
    assert b"POST /v1/completions" in body
