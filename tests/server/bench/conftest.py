"""A tiny server on both fronts, and the command that loads it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from server.cli import app

from ...support.http_front import HttpHarness, http_running
from ...support.servers import make_settings

Bench = Callable[..., Awaitable[Result]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AsyncIterator[HttpHarness]:
    adapters = {name: tiny_adapters[name] for name in ("a0", "a1", "a2")}
    async with http_running(make_settings(tiny_base, adapters), port=True) as harness:
        yield harness


@pytest.fixture
def bench() -> Bench:
    return _bench


async def _bench(*args: str, code: int = 0, env: dict[str, str] | None = None) -> Result:
    """Run `loramux bench` beside the loop that serves."""
    line = ["bench", "--warmup", "0", "--timeout-s", "60", *args]
    result = await asyncio.to_thread(CliRunner().invoke, app, line, env=env)
    assert result.exit_code == code, result.output
    return result


def report_of(result: Result) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(result.stdout)
    return report
