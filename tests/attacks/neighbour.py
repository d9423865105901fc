"""The innocent caller, as a test has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from ..support.tokens import token_of
from .server import ROOT, ServerProcess

CLIENTS = "tests.attacks.clients"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "protos")}


@dataclass
class Report:
    """What the neighbour has seen of a span of time."""

    gap_s: float = 0.0
    """Longest wait for a token that was not the first."""
    first_token_s: float = 0.0
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    health_s: float = 0.0
    """Longest wait for an answer of a health check."""
    unhealthy: list[str] = field(default_factory=list)


class Neighbour:
    """A process of clients/neighbour.py."""

    def __init__(self, server: ServerProcess, compared: str) -> None:
        args = [server.target, server.http_target, token_of("neighbour"), compared]
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{CLIENTS}.neighbour", *args],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_known(self, rounds: int = 2, seconds: float = 60) -> None:
        """Until it has its output alone, and has compared it with itself."""
        end = time.monotonic() + seconds
        while self._ask("rounds") < rounds:
            assert time.monotonic() < end, "the neighbour gets no answers"
            time.sleep(0.05)

    def report(self, since: float) -> Report:
        """What it has seen since then (time.monotonic(), which all processes share)."""
        return Report(**self._ask(since))

    def _ask(self, question: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
