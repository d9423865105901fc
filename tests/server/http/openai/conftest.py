"""A front on a real port, one for all of the folder: clients come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from openai import AsyncOpenAI

from ....support.http_front import HttpHarness, http_running
from ....support.servers import make_settings


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def front(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AsyncIterator[HttpHarness]:
    adapters = {name: tiny_adapters[name] for name in ("a0", "a7")}
    settings = make_settings(tiny_base, adapters, served_model_names=["tiny"])
    async with http_running(settings, port=True) as harness:
        yield harness


@pytest_asyncio.fixture(loop_scope="package")
async def client(front: HttpHarness) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as client:
        yield client
