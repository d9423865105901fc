"""`loramux placement` beside the servers."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from benchmarks.common.paths import ARTIFACTS, ROOT
from benchmarks.compare.peers.loramux_grpc import free_port

from .replicas import Replica

_START_TIMEOUT_S = 60


@contextmanager
def placing(replicas: Sequence[Replica]) -> Iterator[int]:
    """Run it with its defaults; gives the port that Envoy asks."""
    port = free_port()
    command = [sys.executable, "-m", "server", "placement", f"--port={port}"]
    command += [f"--replica=127.0.0.1:{r.metrics}={r.grpc},{r.http}" for r in replicas]
    with (ARTIFACTS / "fleet/placement.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log)
        try:
            _wait_until_healthy(process, port)
            yield port
        finally:
            process.terminate()
            process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz"):
            return
        time.sleep(0.2)
    raise SystemExit(f"placement did not start: see {ARTIFACTS / 'fleet/placement.log'}")
