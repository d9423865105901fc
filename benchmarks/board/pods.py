"""Servers that stand for pods, and the load on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from benchmarks.common.paths import ROOT
from benchmarks.compare.peers.loramux_grpc import free_port

TOKEN = "a-token-of-the-load"
ADAPTERS = [f"tenant-{i:02d}" for i in range(24)]
SLOTS = 8
_START_TIMEOUT_S = 120


def make_models(folder: Path) -> None:
    """Write the small base and its adapters, and the tokens."""
    models = ROOT / "deploy/test/models.py"
    subprocess.run([sys.executable, models, folder, *ADAPTERS], check=True)
    digest = sha256(TOKEN.encode()).hexdigest()
    entry = {"name": "load", "token_sha256": digest, "adapters": ["*"]}
    (folder / "tokens.yaml").write_text(json.dumps([entry]))  # JSON is YAML
    declare(folder, ADAPTERS)


def declare(folder: Path, names: list[str]) -> None:
    """Declare the adapters of all servers."""
    entries = [{"name": name, "source": str(folder / "adapters" / name)} for name in names]
    scratch = folder / "adapters.new"
    scratch.write_text(json.dumps({"adapters": entries}))
    scratch.replace(folder / "adapters.yaml")


class Pod:
    """A server on the small base with all adapters, and callers of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder
        self.grpc, self.http, self.metrics = free_port(), free_port(), free_port()
        self._callers: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        """Start the process; `wait` for it."""
        flags = {
            "base": self._folder / "base",
            "port": self.grpc,
            "http-port": self.http,
            "metrics-port": self.metrics,
            "max-adapters": SLOTS,
            "max-running": 16,
            "max-waiting": 32,
            "kv-cache-bytes": 48 << 20,
            "threads": 1,
            "drain-s": 20,
            "drain-delay-s": 3,
            "adapter-manifest": self._folder / "adapters.yaml",
            "auth-file": self._folder / "tokens.yaml",
            "log-requests": 0,
        }
        command = [sys.executable, "-m", "server", "serve"]
        command += [f"--{key}={value}" for key, value in flags.items()]
        self._server = self._spawn(command, {})

    def wait(self) -> None:
        """Wait until it is ready."""
        end = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.http}/health"):
                return
            time.sleep(0.2)
        raise SystemExit(f"{self.name} did not start: {self._folder / f'{self.name}.log'}")

    def call(self, seconds: float, *options: str, token: str = TOKEN) -> None:
        """Begin a load beside those that run."""
        command = [sys.executable, "-m", "server", "bench", "--duration-s", str(seconds), *options]
        command += ["--target", f"127.0.0.1:{self.grpc}", "--warmup", "0"]
        self._callers.append(self._spawn(command, {"LORAMUX_TOKEN": token}))

    def usual(self, seconds: float, callers: int) -> None:
        """Begin the usual load: mixed adapters over both fronts, and a few that are refused."""
        zipf = ["--all-adapters", "--popularity", "zipf", "--no-prefix-cache"]
        self.call(seconds, "-c", str(callers), *zipf, "--max-new-tokens", "24")
        url = f"http://127.0.0.1:{self.http}"
        self.call(seconds, "--rate", "2", "--http", url, "-a", "", "-a", ADAPTERS[0])
        self.call(seconds, "--rate", "0.5", "-a", "nobody-knows-it", "--max-new-tokens", "1")
        self.call(seconds, "--rate", "0.3", "--max-new-tokens", "1", token="of-nobody")

    def quiet(self) -> None:
        """End its callers."""
        for caller in self._callers:
            caller.kill()
            caller.wait()
        self._callers.clear()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server."""
        self._server.send_signal(how)
        self._server.wait()

    def _spawn(self, command: list[str], more: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{self.name}.log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=os.environ | {"GOMP_SPINCOUNT": "0"} | more,
            )
