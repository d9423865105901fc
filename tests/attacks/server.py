"""A server process of the attacks: small, with tokens, and with a limit on its own memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import server_pb2, server_pb2_grpc

from ..support.processes import is_alive
from ..support.servers import free_port
from ..support.tokens import bearer

ROOT = Path(__file__).parents[2]
DRAIN_S = 1
"""What running requests get after SIGTERM."""
LIMIT_BYTES = 6 << 30
"""What a server may take: an attack on memory must not reach the machine."""
FILES = 1024
"""Files and connections that it may have open, so that places are few."""
SERVING = health_pb2.HealthCheckResponse.SERVING


class ServerProcess:
    """`loramux serve` on `base`. One thread computes, so that the other core is the attackers'.

    `read_log` False: standard error is a pipe that nobody reads.
    """

    def __init__(
        self,
        directory: Path,
        base: Path,
        *args: object,
        read_log: bool = True,
        drain: float = DRAIN_S,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.metrics_port, self.http_port = free_port(), free_port(), free_port()
        self.target, self.http_target = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.http_port}"
        self.drain_s = drain
        self.log = directory / f"server-{self.port}.log"
        settings = {
            "base": base,
            "port": self.port,
            "metrics-port": self.metrics_port,
            "http-port": self.http_port,
            "dtype": "float32",
            "threads": 1,
            "kv-cache-bytes": 64 << 20,
            "max-running": 32,
            "max-waiting": 64,
            "max-batch-tokens": 256,
            "drain-s": drain,
        }
        flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
        command = [sys.executable, "-m", "server", "serve", *flags, *map(str, args)]
        with contextlib.ExitStack() as opened:
            log: IO | int = subprocess.PIPE
            if read_log:
                log = opened.enter_context(self.log.open("w"))
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log)
        resource.prlimit(self.pid, resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (FILES, FILES))

    @property
    def pid(self) -> int:
        return self.process.pid

    def channel(self) -> grpc.Channel:
        """A connection of its own."""
        return grpc.insecure_channel(self.target, [("grpc.use_local_subchannel_pool", 1)])

    def wait_until_serving(self, seconds: float = 120) -> None:
        with self.channel() as channel:
            request = health_pb2.HealthCheckRequest()
            end = time.monotonic() + seconds
            grpc.channel_ready_future(channel).result(timeout=seconds)
            while health_pb2_grpc.HealthStub(channel).Check(request).status != SERVING:
                assert time.monotonic() < end, "the server does not get ready"
                time.sleep(0.05)

    def is_alive(self) -> bool:
        return is_alive(self.pid)

    def load(self) -> server_pb2.Load:
        """What it holds now; everything is asked as the operator."""
        with self.channel() as channel:
            request = server_pb2.GetServerInfoRequest()
            info = server_pb2_grpc.ServerStub(channel).GetServerInfo(
                request, timeout=10, metadata=bearer("operator")
            )
        return info.load

    def terminate(self, patience: float) -> tuple[int | None, float]:
        """Send SIGTERM: the status, None if it is there still, and the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=patience)
        return self.process.poll(), time.monotonic() - began

    def kill(self) -> None:
        """Ends it and what it has started, whatever state they are in."""
        with contextlib.suppress(ProcessLookupError):
            for pid in [self.pid, *children(self.pid)]:
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""


def children(pid: int) -> list[int]:
    """The processes that it has started, and those that they have."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found
