"""Calls of many adapters by each way in at once: unary and streams by ghz, HTTP by httpx."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from cluster import Cluster
from overlay import PROTOS

from scenarios.release import Release
from scenarios.values import ADAPTERS
from scenarios.verdict import WAYS, Row, judged

_RECEIVE = "import sys, os; f = sys.argv[1]; open(f, 'wb').write(sys.stdin.buffer.read()); os.chmod(f, 0o755)"
_STOP = "import os, sys; [os.kill(int(open(f).read()), 2) for f in sys.argv[1:]]"
KINDS = {"unary": ("Generate", 8, 4.0), "streams": ("GenerateStream", 30, 2.0)}
"""Method, tokens, and calls a second."""
HTTP_RATE = 2.0
Report = dict[str, Any]
Names = tuple[str, ...]


class Caller:
    """The pod that calls: its files, and the token that it always has."""

    def __init__(
        self, cluster: Cluster, release: Release, ghz: Path, ca: bytes, token: str
    ) -> None:
        self.cluster, self.release, self.token = cluster, release, token
        here = Path(__file__).parent
        files = {
            "ghz": ghz.read_bytes(),
            "ca.pem": ca,
            "inference.proto": (PROTOS / "inference.proto").read_bytes(),
            "http_calls.py": (here / "http_calls.py").read_bytes(),
        } | {f"{kind}.json": zipf(tokens) for kind, (_, tokens, _) in KINDS.items()}
        for name, data in files.items():
            cluster.run(
                *("exec", "-i", "client", "--", "python", "-c", _RECEIVE, f"/tmp/{name}"),
                stdin=data,
            )

    def begin(self, factor: float = 1) -> Loads:
        """Calls by both ways until `Loads.end`, at `factor` times the usual rates."""
        loads = Loads(self.cluster)
        hosts = dict(zip(WAYS, (self.release.full, self.release.router), strict=True))
        for way, host in hosts.items():
            for kind, (method, _, rate) in KINDS.items():
                loads.start(way, kind, self._ghz(host, kind, method, rate * factor))
            url = f"https://{host}:8000"
            command = ["python", "/tmp/http_calls.py", url, self.token, f"{HTTP_RATE * factor:g}"]
            loads.start(way, "HTTP", [*command, *ADAPTERS])
        return loads

    def _ghz(self, host: str, kind: str, method: str, rate: float) -> list[str]:
        files = ["--proto", "/tmp/inference.proto", "--cacert", "/tmp/ca.pem"]
        what = ["--call", f"loramux.v1.Inference/{method}", "--data-file", f"/tmp/{kind}.json"]
        token = json.dumps({"authorization": f"Bearer {self.token}"})
        how = ["--async", "--rps", f"{rate:g}", "--duration", "1h", "--duration-stop", "wait"]
        # Four channels: an Envoy behind one address is found by connection.
        ways = ["--connections", "4", "--lb-strategy", "round_robin", "--timeout", "120s"]
        head = ["/tmp/ghz", *files, *what, "--metadata", token, "--format", "json"]
        return [*head, *how, *ways, f"dns:///{host}:50051"]


def zipf(tokens: int) -> bytes:
    """Requests of adapters by Zipf's law, the base's among them."""
    draw = random.Random(0)
    names = ["", *ADAPTERS]
    drawn = draw.choices(names, [1 / place for place in range(1, len(names) + 1)], k=200)
    shape = {"prompt": "hello", "max_new_tokens": tokens, "ignore_eos": True}
    return json.dumps([{"adapter_id": one} | shape for one in drawn]).encode()


class Loads:
    """Runs that were begun together."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._runs: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    def start(self, way: str, kind: str, command: list[str]) -> None:
        run = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', _pid(way, kind), *command]
        told = self._cluster.command("exec", "client", "--", *run)
        process = subprocess.Popen(told, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._runs[way, kind] = process

    def end(self) -> dict[tuple[str, str], Report]:
        """No more calls; waits for those that run, and gives what each run reports."""
        self._cluster.python("client", _STOP, *(_pid(*run) for run in self._runs))
        return {run: _report(run, process) for run, process in self._runs.items()}

    def rows(self, measure: str, killed: Names = (), refusing: Names = ()) -> list[Row]:
        """Ends the runs. `killed` and `refusing` name ways, or ways and kinds: of those a process was
        killed, and these may be refused calls beside the Service's."""
        found = []
        for (way, kind), report in self.end().items():
            names = {way, f"{way} {kind}"}
            may = True if names & set(refusing) else None
            row = judged(report, way, bool(names & set(killed)), may)
            found.append({"measure": measure, "kind": kind} | row)
        return found


def _pid(way: str, kind: str) -> str:
    return f"/tmp/{way}-{kind}.pid"


def _report(run: tuple[str, str], process: subprocess.Popen[bytes]) -> Report:
    out, errors = process.communicate(timeout=180)
    if not out:
        raise RuntimeError(f"calls by {' '.join(run)}: {errors.decode().strip()[-500:]}")
    return dict(json.loads(out))
