"""A served tiny base with eight adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from server.logs import LineLimit, limit

from ..support.servers import Harness, make_settings, running

# Log lines would mix with the output of commands that run in this process, and tracebacks in colour
# take as long as everything else.
structlog.configure(
    processors=[structlog.processors.KeyValueRenderer()],
    logger_factory=structlog.ReturnLoggerFactory(),
)


@pytest.fixture(autouse=True)
def fresh_line_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test's refusals keep another's out of the log."""
    monkeypatch.setattr(limit, "LIMIT", LineLimit())


@pytest.fixture(scope="session")
def adapter_root(tiny_adapters: dict[str, Path]) -> Path:
    return tiny_adapters["a0"].parent


@pytest_asyncio.fixture
async def served(
    tiny_base: Path, tiny_adapters: dict[str, Path], adapter_root: Path
) -> AsyncIterator[Harness]:
    async with running(
        make_settings(tiny_base, tiny_adapters, adapter_roots=[adapter_root])
    ) as harness:
        yield harness
