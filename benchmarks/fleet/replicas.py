"""Servers of one base, each a process with one thread, and their counters."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.common.paths import ARTIFACTS, ROOT
from benchmarks.compare.peers.loramux_grpc import free_port

from .bases import Base, manifest

_START_TIMEOUT_S = 120
COUNTED = ("requests", "prompt_tokens", "completion_tokens", "adapter_loads")


@dataclass(frozen=True)
class Replica:
    """A server's ports."""

    grpc: int
    http: int
    metrics: int


@dataclass(frozen=True)
class Counts:
    """What one server's counters say, of one of COUNTED each."""

    requests: float
    prompt_tokens: float
    completion_tokens: float
    adapter_loads: float

    def __sub__(self, before: Counts) -> Counts:
        return Counts(*(getattr(self, name) - getattr(before, name) for name in COUNTED))


@contextmanager
def serving(base: Base, count: int, slots: int) -> Iterator[list[Replica]]:
    """Run servers with so many slots each, and without host memory: every miss is a load."""
    declared = manifest(base)
    flags = [f"--base={base.directory()}", f"--adapter-manifest={declared}", "--threads=1"]
    flags += [f"--dtype={base.dtype}", f"--max-adapters={slots}", "--adapter-host-bytes=0"]
    flags += ["--metrics-adapter-labels=0", "--log-level=error"]
    replicas = [Replica(free_port(), free_port(), free_port()) for _ in range(count)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for i, replica in enumerate(replicas):
            command = [sys.executable, "-m", "server", "serve", *flags]
            command += [f"--port={replica.grpc}", f"--http-port={replica.http}"]
            command += [f"--metrics-port={replica.metrics}"]
            with (ARTIFACTS / f"fleet/server-{i}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, cwd=ROOT, stderr=log))
        for replica, process in zip(replicas, processes, strict=True):
            _wait_until_ready(replica, process)
        yield replicas
    finally:
        _end(processes)


def counts(replica: Replica) -> Counts:
    """Read a server's counters, all adapters together."""
    page = _get(replica.metrics, "/metrics")
    found = dict.fromkeys(COUNTED, 0.0)
    for family in text_string_to_metric_families(page):
        name = family.name.removeprefix("loramux_")
        if name in found and family.name != name:
            found[name] = sum(s.value for s in family.samples if s.name.endswith("_total"))
    return Counts(**found)


def settled(replicas: Sequence[Replica], requests: float) -> list[Counts]:
    """Read all servers' counters once they have counted `requests`: a call's end is counted after
    its caller has heard of it. Gives what there is after some seconds."""
    for _ in range(50):
        found = [counts(replica) for replica in replicas]
        if sum(one.requests for one in found) >= requests:
            break
        time.sleep(0.1)
    return found


def _wait_until_ready(replica: Replica, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            if "\nloramux_ready 1.0" in _get(replica.metrics, "/metrics"):
                return
        time.sleep(0.2)
    raise SystemExit(f"a server did not start: see {ARTIFACTS / 'fleet'}")


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
