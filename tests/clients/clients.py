"""The clients by name: each runs as it is, and tells what it found."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .checks.harness import ADAPTERS
from .server import ROOT, Served, served

VENV = ROOT / ".bench/clients"
PYTHON = VENV / "bin/python"
READY = VENV / ".ready"
TIMEOUT_S = 300
_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would ask the network for prices
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
}
CHECKS = {
    "openai-python": "openai_python",
    "LiteLLM": "litellm_sdk",
    "LangChain ChatOpenAI": "langchain_chat",
}
"""Modules of `checks`, by client."""


@dataclass(frozen=True)
class Finding:
    """A check of a client, and what is wrong, if anything."""

    check: str
    problem: str = ""


@dataclass(frozen=True)
class Bench:
    """A bench tool's run. `command` is given the server's address and where to write its report;
    `read` finds in the report how many requests it counts as good and failed, and their tokens."""

    command: Callable[[str, Path], list[str]]
    read: Callable[[Path], tuple[int, int, int]]
    environment: dict[str, str]
    requests: int
    tokens: int
    adapters: tuple[str, ...]
    """Those that take turns; the base too."""


@dataclass(frozen=True)
class Report:
    findings: list[Finding]
    served: Served
    seconds: float

    @property
    def problems(self) -> list[str]:
        return [f"{found.check}: {found.problem}" for found in self.findings if found.problem]


def run(client: str | Bench, url: str, scratch: Path) -> Report:
    """Run a module of `checks` or a bench."""
    before, started = served(url), time.monotonic()
    findings = (
        _run_checks(client, url, scratch)
        if isinstance(client, str)
        else _run_bench(client, url, scratch)
    )
    now = served(url).since(before)
    if isinstance(client, Bench):
        each = client.requests // len(client.adapters)
        findings.append(_equal("requests by adapter", now.requests, each, client.adapters))
        tokens = client.tokens // len(client.adapters)
        findings.append(_equal("tokens by adapter", now.tokens, tokens, client.adapters))
        # Some go on without what they were refused, and only say so.
        refused = ", ".join(page for page, count in now.refused.items() if count)
        findings.append(Finding("nothing is refused", refused))
    else:
        unused = [name for name in ADAPTERS if not now.requests[name]]
        findings.append(
            Finding("every adapter is used", f"not {', '.join(unused)}" if unused else "")
        )
    return Report(findings, now, time.monotonic() - started)


def _run_checks(module: str, url: str, scratch: Path) -> list[Finding]:
    report = scratch / f"{module}.jsonl"
    command = [str(PYTHON), "-m", f"tests.clients.checks.{module}", url, str(report)]
    problem = _call(command, ROOT, {})
    rows = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    return [
        *(Finding(row["check"], row["problem"]) for row in rows),
        Finding("it ends well", problem),
    ]


def _run_bench(bench: Bench, url: str, scratch: Path) -> list[Finding]:
    if problem := _call(bench.command(url, scratch), scratch, bench.environment):
        return [Finding("it ends well", problem)]
    good, failed, tokens = bench.read(scratch)
    return [
        Finding("it ends well"),
        _told("requests that it counts", good, bench.requests),
        _told("failures that it counts", failed, 0),
        _told("tokens that it counts", tokens, bench.tokens),
    ]


def _call(command: list[str], directory: Path, environment: dict[str, str]) -> str:
    """Run it to its end; what is wrong, if anything."""
    # Its own packages only: PYTHONPATH would lead it to ours.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=kept | _ENVIRONMENT | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end in {TIMEOUT_S} s"
    return f"status {done.returncode}\n{done.stdout[-2000:]}" if done.returncode else ""


def _told(check: str, found: int, wanted: int) -> Finding:
    return Finding(check, "" if found == wanted else f"{found}, not {wanted}")


def _equal(check: str, found: dict[str, int], each: int, names: tuple[str, ...]) -> Finding:
    wanted = {name: each if name in names else 0 for name in found}
    return Finding(check, "" if found == wanted else f"{found}, not {wanted}")
