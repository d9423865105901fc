"""Servers of checkouts, each a process with one compute thread, and the core seconds that they take."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.paths import ARTIFACTS
from benchmarks.compare.peers.loramux_grpc import free_port
from benchmarks.fleet.bases import BASES, manifest

_START_TIMEOUT_S = 120


@dataclass(frozen=True)
class Server:
    """A server's ports and process, and the checkout that it is of."""

    checkout: Path
    grpc: int
    http: int
    process: subprocess.Popen[bytes]

    def core_s(self) -> float:
        """Seconds of a core so far, of all its threads, in the program and in the system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(checkout: Path) -> Iterator[Server]:
    """Run a checkout's server on the tiny base, with its log as users have it."""
    base = BASES["tiny"]
    ports = free_port(), free_port()
    command = [sys.executable, "-m", "server", "serve", f"--base={base.directory()}"]
    command += [f"--adapter-manifest={manifest(base)}", "--max-adapters=64", "--threads=1"]
    command += [f"--port={ports[0]}", f"--http-port={ports[1]}", "--metrics-port=0"]
    command += [f"--kv-cache-bytes={256 << 20}"]
    parts = (".", "protos", "clients/python")
    paths = os.pathsep.join(str(checkout / part) for part in parts)
    logs = ARTIFACTS / "calls"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{ports[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=checkout, stderr=log, env=os.environ | {"PYTHONPATH": paths}
        )
    try:
        _wait_until_ready(process, ports[1])
        yield Server(checkout, *ports, process)
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"a server did not start: see {ARTIFACTS / 'calls'}")
