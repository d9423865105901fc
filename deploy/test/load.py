"""ghz in the client's pod: open loop, one channel for as long as it lasts, calls counted by status."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import Cluster
from overlay import PROTOS

_RECEIVE = "import sys, os; f = sys.argv[1]; open(f, 'wb').write(sys.stdin.buffer.read()); os.chmod(f, 0o755)"
_ADDRESS = "dns:///loramux:50051"


@dataclass(frozen=True)
class Calls:
    """One kind of call: how many tokens, how many calls a second."""

    method: str
    tokens: int
    rps: float = 0

    def flags(self) -> list[str]:
        data = {
            "adapter_id": "support",
            "prompt": "hello",
            "max_new_tokens": self.tokens,
            "ignore_eos": True,
        }
        return ["--call", f"loramux.v1.Inference/{self.method}", "--data", json.dumps(data)]


UNARY = Calls("Generate", 8, 8)
STREAMS = Calls("GenerateStream", 60, 5)


class Client:
    """The pod with ghz, the authority and the token."""

    def __init__(self, cluster: Cluster, ghz: Path, authority: bytes, token: str) -> None:
        self.cluster, self._token, self._loads = cluster, token, 0
        files = {"ghz": ghz.read_bytes(), "ca.pem": authority}
        for name, data in (
            files | {"inference.proto": (PROTOS / "inference.proto").read_bytes()}
        ).items():
            send = ["exec", "-i", "client", "--", "python", "-c", _RECEIVE, f"/tmp/{name}"]
            cluster.run(*send, stdin=data)

    def load(self, calls: Calls) -> Load:
        """Calls at a steady rate until `Load.end`."""
        rate = ["--async", "--rps", f"{calls.rps:g}", "--duration", "1h", "--duration-stop", "wait"]
        return self._start([*calls.flags(), *rate, "--lb-strategy", "round_robin", _ADDRESS])

    def at_once(self, calls: Calls, count: int, pod_ip: str) -> Load:
        """So many calls to one pod, begun together; it ends by itself."""
        number = ["-n", f"{count}", "-c", f"{count}", "--cname", "loramux"]
        return self._start([*calls.flags(), *number, f"{pod_ip}:50051"])

    def _start(self, flags: list[str]) -> Load:
        self._loads += 1
        common = ["--proto", "/tmp/inference.proto", "--cacert", "/tmp/ca.pem", "--timeout", "120s"]
        token = json.dumps({"authorization": f"Bearer {self._token}"})
        pid = f"/tmp/{self._loads}.pid"
        ghz = ["/tmp/ghz", *common, "--metadata", token, "--format", "json", *flags]
        run = ["exec", "client", "--", "sh", "-c", f'echo $$ > {pid}; exec "$@"', "sh", *ghz]
        return Load(self.cluster, pid, self.cluster.command(*run))


class Load:
    """A run of ghz."""

    def __init__(self, cluster: Cluster, pid: str, command: list[str]) -> None:
        self._cluster, self._pid, self._start = cluster, pid, time.monotonic()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def end(self) -> dict[str, Any]:
        """Sends no more calls, waits for those that run and counts all."""
        code = "import os, sys; os.kill(int(open(sys.argv[1]).read()), 2)"
        self._cluster.python("client", code, self._pid)
        return self.result()

    def result(self) -> dict[str, Any]:
        out, errors = self._process.communicate(timeout=180)
        if not out:
            raise RuntimeError(f"ghz: {errors.decode().strip()[-500:]}")
        report = json.loads(out)
        statuses = Counter(report["statusCodeDistribution"])
        return {
            "calls": report["count"],
            "failed": report["count"] - statuses["OK"],
            "by_status": dict(sorted(statuses.items())),
            "errors": report["errorDistribution"],
            "seconds": round(report["total"] / 1e9, 1),
            "longest_s": round(report["slowest"] / 1e9, 2),
        }
