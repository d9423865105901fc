"""An Envoy that asks for a table, and its CPU and memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import uvicorn
import yaml

from benchmarks.common.paths import ARTIFACTS
from benchmarks.compare.peers.loramux_grpc import free_port
from benchmarks.fleet.envoy import configured
from benchmarks.fleet.policies import POLICIES
from benchmarks.fleet.replicas import Replica
from server.placement.app import PlacementApp
from server.placement.placer import Placer

_TICKS = os.sysconf("SC_CLK_TCK")


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"] or 0))  # a health check has none
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None: ...


class Envoy:
    """The process, and its port for HTTP."""

    def __init__(self, process: subprocess.Popen[bytes], http: int) -> None:
        self.http, self._process = http, process

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def running(program: Path, placer: Placer) -> Iterator[Envoy]:
    """Run Envoy, a server that answers nothing behind it, and what gives it the placer's table."""
    behind = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    port, ports = free_port(), {name: free_port() for name in ("grpc", "http", "metrics", "admin")}
    app = PlacementApp(placer).routes
    tables = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=tables.run)
    thread.start()
    (placed,) = [policy for policy in POLICIES if policy.placement]
    server = Replica(free_port(), behind.server_port, 0, None)  # type: ignore[arg-type]
    config = ARTIFACTS / "placement-envoy.yaml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(yaml.safe_dump(configured(placed, [server], ports, port, 0)))
    command = [str(program), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id"]
    process = subprocess.Popen([*command, "--log-level", "error"])
    try:
        time.sleep(5)
        yield Envoy(process, ports["http"])
    finally:
        process.terminate()
        process.wait()
        tables.should_exit = True
        thread.join()
        behind.shutdown()
