"""Pictures of the page for docs/results: make test-slow ARGS='tests/browser --pictures docs/results'."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from lora_runtime import AdapterPolicy

from ..support.http_front import HttpHarness, http_running
from ..support.servers import make_settings
from .conftest import NAMES, Show
from .test_page import streams
from .test_playground import ask, choose

ROOT = Path(__file__).parents[2]
BASE = ROOT / ".models/SmolLM2-135M-Instruct"
ADAPTERS = ("pirate", "json", "sentiment")
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture(scope="module")
def pictures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pictures go to."""
    return request.config.getoption("--pictures") or tmp_path_factory.mktemp("pictures")


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def busy(server: HttpHarness, versions: list[Path]) -> AsyncIterator[None]:
    """Requests of six adapters and the base; canaries, and policies."""
    engine = server.server.app.engine
    engine.load_adapter(versions[900], "billing-de-080", canary_weight=0.1)
    engine.set_policy("billing-de-160", AdapterPolicy(weight=2, max_running=8))
    engine.set_policy(NAMES[9], AdapterPolicy(pinned=True))
    for name in NAMES[40:42]:
        await server.post("/v1/completions", {"model": name, "prompt": "Hello"})
    models = [*([NAMES[7]] * 6), *([NAMES[9]] * 4), NAMES[3], NAMES[3], *NAMES[30:33], "", ""]
    async with streams(server, *models):
        yield


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_whole(
    server: HttpHarness, show: Show, pictures: Path, busy: None, scheme: str
) -> None:
    size = {"width": 1320, "height": 1640}
    async with show(server, color_scheme=scheme, viewport=size) as shown:
        page = shown.page
        await expect(page.locator("#found")).to_have_text("1,001 of 1,001")
        await expect(page.locator("#batch li")).to_have_count(7)
        await page.wait_for_timeout(8_000)  # a curve
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(244, 246, 249)", "dark": "rgb(13, 17, 23)"}[scheme]
        await _take(page, pictures / f"page-{scheme}.png")
        assert shown.problems == []


async def test_the_playground(browser: Browser, show: Show, pictures: Path) -> None:
    if not BASE.is_dir():
        pytest.skip(f"{BASE} is not there: make base")
    adapters = {name: ROOT / "examples/adapters" / name for name in ADAPTERS}
    settings = make_settings(BASE, adapters, dtype="bfloat16", kv_cache_bytes=256 << 20)
    async with (
        http_running(settings, port=True) as server,
        show(server, viewport={"width": 1320, "height": 2400}) as shown,
    ):
        page = shown.page
        await choose(page, *ADAPTERS)
        await ask(page)
        await expect(page.locator("#said")).to_contain_text("sentiment: done.", timeout=60_000)
        await expect(page.get_by_role("article").nth(0)).to_contain_text("Paris")
        await expect(page.get_by_role("article").nth(1)).to_contain_text("Arr")
        box = await page.locator("#playground").bounding_box()
        assert box
        around = {"x": 0, "y": box["y"], "width": 1320, "height": box["height"] + 16}
        await _take(page, pictures / "page-playground.png", full_page=True, clip=around)


async def _take(page: Page, path: Path, **options: Any) -> None:
    assert (await page.screenshot(path=path, **options)).startswith(b"\x89PNG")
