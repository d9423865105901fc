"""A server whose adapters callers may change."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from ....support.http_front import HttpHarness, http_running
from ....support.servers import make_settings
from ....support.tokens import write_tokens


@pytest_asyncio.fixture
async def front(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> AsyncIterator[HttpHarness]:
    tokens = write_tokens(
        tmp_path / "tokens.yaml",
        root={"adapters": ["*"], "admin": True},
        team={"adapters": ["team-*"], "admin": True},
        user={"adapters": ["*"]},
    )
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a1", "a2"):
        shutil.copytree(tiny_adapters[name], root / name)
    settings = make_settings(
        tiny_base,
        {"a0": tiny_adapters["a0"]},
        auth_file=tokens,
        served_model_names=["tiny"],
        adapter_roots=[root],
        adapter_sources=["hf://my-org", "memory://store"],
    )
    async with http_running(settings) as harness:
        yield harness
