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

_START_TIMEOUT_S = 300
COUNTED = ("requests", "prompt_tokens", "completion_tokens", "adapter_loads")


@dataclass(frozen=True)
class Replica:
    """A server's ports, and its process."""

    grpc: int
    http: int
    metrics: int
    process: subprocess.Popen[bytes]


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
    replicas: list[Replica] = []
    try:
        for i in range(count):
            replicas.append(_started(flags, i))
        for replica in replicas:
            _wait_until_ready(replica)
        yield replicas
    finally:
        _end([replica.process for replica in replicas])


def counts(replica: Replica) -> Counts:
    """Read a server's counters, all adapters together."""
    page = page_of(replica)
    found = dict.fromkeys(COUNTED, 0.0)
    for family in text_string_to_metric_families(page):
        name = family.name.removeprefix("loramux_")
        if name in found and family.name != name:
            found[name] = sum(s.value for s in family.samples if s.name.endswith("_total"))
    return Counts(**found)


def page_of(replica: Replica) -> str:
    """Read a server's metrics."""
    url = f"http://127.0.0.1:{replica.metrics}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def settled(replicas: Sequence[Replica], requests: float) -> list[Counts]:
    """Read all servers' counters once they have counted `requests`: a call's end is counted after
    its caller has heard of it. Gives what there is after some seconds."""
    for _ in range(50):
        found = [counts(replica) for replica in replicas]
        if sum(one.requests for one in found) >= requests:
            break
        time.sleep(0.1)
    return found


def _started(flags: Sequence[str], number: int) -> Replica:
    ports = free_port(), free_port(), free_port()
    command = [sys.executable, "-m", "server", "serve", *flags]
    command += [
        f"--{n}={p}" for n, p in zip(("port", "http-port", "metrics-port"), ports, strict=True)
    ]
    with (ARTIFACTS / f"fleet/server-{number}.log").open("wb") as log:
        return Replica(*ports, subprocess.Popen(command, cwd=ROOT, stderr=log))


def _wait_until_ready(replica: Replica) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and replica.process.poll() is None:
        with suppress(OSError):
            if "\nloramux_ready 1.0" in page_of(replica):
                return
        time.sleep(0.2)
    raise SystemExit(f"a server did not start: see {ARTIFACTS / 'fleet'}")


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
