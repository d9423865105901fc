"""The page in headless Chromium: one browser for all tests, and a server of 1,000 adapters."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from lora_runtime import EngineObserver, StepStats

from ..support.adapters import edit_config
from ..support.http_front import HttpHarness, http_running
from ..support.servers import make_settings

expect.set_options(timeout=60_000)
MANY = 1000
SLOTS = 8
_TEAMS = ("billing", "claims", "legal", "onboarding", "sales", "search", "support", "triage")
_LANGUAGES = ("de", "en", "es", "fr", "it", "ja", "nl", "pl", "pt", "sv")
NAMES = [f"{_TEAMS[i % 8]}-{_LANGUAGES[i // 8 % 10]}-{i:03d}" for i in range(MANY)]
ODD = "z<img src=x onerror=alert(1)>&<b>odd"
"""Name of an adapter beside them."""


@dataclass
class Shown:
    """A page that is open, and what it did."""

    page: Page
    requests: list[str] = field(default_factory=list)
    """Addresses that it asked for."""
    problems: list[str] = field(default_factory=list)
    """Lines of its console that are errors, and errors of its script."""

    def take(self, line: ConsoleMessage) -> None:
        if line.type == "error":
            self.problems.append(line.text)


class Pace(EngineObserver):
    """Makes steps of a tiny base take as long as those of a small one."""

    def on_step(self, stats: StepStats) -> None:
        time.sleep(0.02)


class Show(Protocol):
    """Open the page of a server; `ready`: wait until it has shown something."""

    def __call__(
        self, server: HttpHarness, ready: bool = True, **options: Any
    ) -> AbstractAsyncContextManager[Shown]: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", type=Path, help="write pictures of the page there")


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    async with async_playwright() as driver:
        found = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        await found.close()


@pytest.fixture(scope="session")
def show(browser: Browser) -> Show:
    @asynccontextmanager
    async def shown(
        server: HttpHarness, ready: bool = True, **options: Any
    ) -> AsyncIterator[Shown]:
        context = await browser.new_context(
            **{"viewport": {"width": 1320, "height": 900}} | options
        )
        page = await context.new_page()
        page.set_default_timeout(60_000)
        found = Shown(page)
        page.on("request", lambda request: found.requests.append(request.url))
        page.on("pageerror", lambda error: found.problems.append(str(error)))
        page.on("dialog", lambda dialog: found.problems.append(dialog.message))
        page.on("console", found.take)
        await page.goto(server.url)
        if ready:
            await page.locator("#state.good").wait_for()
        try:
            yield found
        finally:
            await context.close()

    return shown


@pytest.fixture(scope="session")
def versions(
    tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Adapters, of which each is a version of its own: what they scale by differs."""
    root = tmp_path_factory.mktemp("many")
    for i in range(MANY + 1):
        shutil.copytree(tiny_adapters[f"a{i % 8}"], root / str(i))
        edit_config(root / str(i), lora_alpha=8 + i / MANY)
    return [root / str(i) for i in range(MANY + 1)]


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def server(
    browser: Browser, tiny_base: Path, versions: list[Path]
) -> AsyncIterator[HttpHarness]:
    """A server of 1,000 adapters and one with an odd name, with room for eight at a time."""
    settings = make_settings(tiny_base, max_adapters=SLOTS, adapter_host_bytes=3 << 20)
    async with http_running(settings, port=True) as front:
        engine = front.server.app.engine
        engine.add_observer(Pace())
        for name, path in zip([*NAMES, ODD], versions, strict=True):
            engine.load_adapter(path, name)
        yield front
