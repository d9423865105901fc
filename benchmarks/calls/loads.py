"""Loads of calls, each sent by a program of its own, so that the server's core is the server's."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.common.paths import ROOT
from benchmarks.fleet.bases import adapter_names

from .servers import Server

_ADAPTERS = adapter_names()[:8]
_PROMPT = "hello"
_PROTOS = ROOT / "protos"


@dataclass(frozen=True)
class Load:
    """A closed loop: so many callers, each of whom sends its next call when its last one has ended."""

    way: str
    tokens: int
    concurrency: int
    calls: int

    @property
    def name(self) -> str:
        return f"{self.way}, {self.tokens} token{'s' * (self.tokens > 1)}"


UNARY, STREAM, HTTP = "Generate", "GenerateStream", "HTTP"
LOADS = tuple(
    Load(way, tokens, concurrency, calls)
    for way, tokens, calls in (
        (UNARY, 1, 4000),
        (UNARY, 32, 1000),
        (STREAM, 32, 1000),
        (HTTP, 1, 2000),
    )
    for concurrency in (1, 8, 32, 100)
)


def send(load: Load, server: Server) -> float:
    """Send a load; gives calls a second. Raises RuntimeError if a call failed."""
    command = _http(load, server) if load.way == HTTP else _ghz(load, server)
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    said = json.loads(told)
    if set(said["statusCodeDistribution"]) != {"OK"}:
        raise RuntimeError(f"calls failed: {said['statusCodeDistribution']}")
    return float(said["rps"])


def _ghz(load: Load, server: Server) -> list[str]:
    requests = [
        {
            "adapter_id": adapter,
            "prompt": _PROMPT,
            "max_new_tokens": load.tokens,
            "ignore_eos": True,
        }
        for adapter in _ADAPTERS
    ]
    command = ["ghz", "--insecure", "--import-paths", str(_PROTOS), "--count-errors"]
    command += ["--proto", str(_PROTOS / "loramux/v1/inference.proto"), "--timeout=60s"]
    command += ["--call", f"loramux.v1.Inference.{load.way}", "--data", json.dumps(requests)]
    command += ["-n", str(load.calls), "-c", str(load.concurrency), "-O", "json"]
    return [*command, f"127.0.0.1:{server.grpc}"]


def _http(load: Load, server: Server) -> list[str]:
    request = {"prompt": _PROMPT, "max_tokens": load.tokens, "ignore_eos": True}
    bodies = [json.dumps(request | {"model": adapter}) for adapter in _ADAPTERS]
    command = [sys.executable, "-m", "benchmarks.calls.http_client", str(server.http)]
    return [*command, str(load.calls), str(load.concurrency), *bodies]
