"""The server that the clients are tried on, and what its metrics say of them."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .checks.harness import ADAPTERS

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".models/SmolLM2-135M-Instruct"
BASE = "base"
"""Its name in metrics."""
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 60


@dataclass(frozen=True)
class Served:
    """What the server has served by now, by adapter, the base by BASE; and refused, by page and status."""

    requests: dict[str, int]
    """Those that ended well."""
    tokens: dict[str, int]
    refused: dict[str, int]

    def since(self, before: Served) -> Served:
        return Served(
            *(
                {name: count - start.get(name, 0) for name, count in after.items()}
                for after, start in (
                    (self.requests, before.requests),
                    (self.tokens, before.tokens),
                    (self.refused, before.refused),
                )
            )
        )


@contextlib.contextmanager
def serving(log: Path) -> Iterator[str]:
    """A server with the demo's adapters; gives its address. Few requests run and wait at once, so
    that some are refused and tried again."""
    port = _free_port()
    command = [sys.executable, "-m", "server", "serve", "--base", str(MODEL), "--metrics-port", "0"]
    command += ["--port", str(_free_port()), "--http-port", str(port)]
    command += ["--max-running", "8", "--max-waiting", "8"]
    for name in ADAPTERS:
        command += ["--adapter", f"{name}={ROOT / 'examples/adapters' / name}"]
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stderr=stream)
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)


def served(url: str) -> Served:
    page = urllib.request.urlopen(f"{url}/metrics").read().decode()
    return Served(
        _counts(page, r'loramux_requests_total\{adapter="{}",outcome="ok"\}'),
        _counts(page, r'loramux_completion_tokens_total\{adapter="{}"\}'),
        {
            f"{route}: {status}": int(float(count))
            for route, status, count in re.findall(
                r'^loramux_http_requests_total\{route="(.*)",status="([45]..)"\} (\S+)$',
                page,
                re.MULTILINE,
            )
        },
    )


def _counts(page: str, line: str) -> dict[str, int]:
    found = {}
    for name in (BASE, *ADAPTERS):
        match = re.search(rf"^{line.replace('{}', name)} (\S+)$", page, re.MULTILINE)
        found[name] = int(float(match[1])) if match else 0
    return found


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health", timeout=2)
            return
        time.sleep(0.3)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
