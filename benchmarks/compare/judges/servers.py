"""Servers that loads are sent to, each a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from loramux.v1 import server_pb2, server_pb2_grpc

from benchmarks.common.paths import MODEL, ROOT

from ..peers.loramux_grpc import free_port
from .loads import ADAPTER, STAND_IN, Load

_START_TIMEOUT_S = 120


@contextmanager
def serving(load: Load) -> Iterator[int]:
    """Give the port of the load's server, which runs while the block does."""
    with _stand_in(load) if load.server == STAND_IN else _loramux() as port:
        yield port


@contextmanager
def _stand_in(load: Load) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.compare.judges.stand_in"]
    command += [f"--first-ms={load.first_ms}", f"--gap-ms={load.gap_ms}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.communicate()  # it ends with its input


@contextmanager
def _loramux() -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", f"--base={MODEL}", f"--port={port}"]
    command += ["--http-port=0", "--metrics-port=0", "--log-level=error", "--no-prefix-caching"]
    command += [f"--adapter={ADAPTER}={ROOT / 'examples/adapters' / ADAPTER}"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        _wait_until_ready(process, port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = server_pb2_grpc.ServerStub(channel)
        while time.monotonic() < deadline and process.poll() is None:
            try:
                stub.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=5)
                return
            except grpc.RpcError:  # UNAVAILABLE until the base and the adapter are loaded
                time.sleep(0.2)
    raise SystemExit("the server did not start")
