"""What the page shows of a server of 1,000 adapters, and that it shows nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from lora_runtime import AdapterPolicy

from ..support.http_front import HttpHarness
from .conftest import NAMES, ODD, SLOTS, Show

pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def streams(server: HttpHarness, *models: str) -> AsyncIterator[None]:
    """Requests that run as long as the block does."""

    async def run(model: str) -> None:
        body = {"model": model, "prompt": "Hello", "ignore_eos": True, "max_tokens": 400}
        while True:
            await server.post("/v1/completions", body)

    tasks = [asyncio.create_task(run(model)) for model in models]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_runs(server: HttpHarness, show: Show) -> None:
    busy, base = NAMES[7], server.server.app.engine.base.name
    async with show(server) as shown, streams(server, busy, busy, ""):
        page = shown.page
        line = page.locator("#batch li", has_text=busy)
        await expect(line.locator(".count")).to_have_text("2")
        await expect(page.locator("#batch li", has_text="base model")).to_have_count(1)
        cell = page.locator(".cell.running", has_text=busy)
        await expect(cell).to_contain_text("2 sequences")
        await expect(page.locator("#rows")).to_have_text("3 of 64")
        await expect(page.locator("#rate")).not_to_have_text("0.0")
        await expect(page.locator("#ttft")).to_contain_text("s")
        await expect(page.locator("#base")).to_have_text(base)
    await server.server.idle_stats()


async def test_slots_and_tiers(server: HttpHarness, show: Show) -> None:
    async with show(server) as shown:
        page, stats = shown.page, server.server.app.engine.stats()
        await expect(page.locator("#slot-cells .cell")).to_have_count(SLOTS)
        legend = page.get_by_role("listitem").filter(has_text="in slots")
        await expect(legend).to_have_text(f"{stats.adapters} in slots")
        for kind, count in (("device", stats.adapters), ("host", stats.host_adapters)):
            path = await page.locator(f"#waffle .fill-{kind}").get_attribute("d")
            assert (path or "").count("M") == count
        assert stats.host_adapters
        await expect(page.locator("#tiers-more")).to_have_text("1,001, a square for each")


async def test_names_of_one_slot_are_all_in_it(
    server: HttpHarness, show: Show, versions: list[Path]
) -> None:
    engine = server.server.app.engine
    name = engine.residents()[0].adapter_ids[0]
    engine.load_adapter(versions[[*NAMES, ODD].index(name)], "twin")
    try:
        async with show(server) as shown:
            legend = shown.page.locator("#legend li")
            held = engine.stats()
            await expect(legend.first).to_have_text(f"{held.adapters + 1} in slots")
            cold = held.registered_adapters - held.adapters - 1 - held.host_adapters
            await expect(legend.last).to_have_text(f"{cold} at their sources only")
    finally:
        engine.unload_adapter("twin")


@pytest.mark.slow
async def test_a_thousand_adapters_in_a_table_of_few_rows(server: HttpHarness, show: Show) -> None:
    async with show(server) as shown:
        page = shown.page
        await expect(page.locator("#found")).to_have_text("1,001 of 1,001")
        await expect(page.locator("#table")).to_have_attribute("aria-rowcount", "1002")
        assert await page.locator("#lines tr").count() < 40
        await page.locator("#scroller").evaluate("box => box.scrollTo(0, box.scrollHeight)")
        last = page.locator("#lines tr").last
        await expect(last).to_contain_text(max(*NAMES, ODD))
        await expect(last).to_have_attribute("aria-rowindex", "1002")
        assert await page.locator("#lines tr").count() < 40
        await page.get_by_label("Search").fill("LEGAL-de")
        wanted = sorted(name for name in NAMES if "legal-de" in name)
        await expect(page.locator("#found")).to_have_text(f"{len(wanted)} of 1,001")
        assert await page.locator("#lines th").all_inner_texts() == wanted
        assert "adapters?page_size=50" in "".join(shown.requests)


@pytest.mark.slow
async def test_versions_canaries_policies(
    server: HttpHarness, show: Show, versions: list[Path]
) -> None:
    engine, name = server.server.app.engine, NAMES[20]
    older = engine.get_adapter(name).version
    engine.load_adapter(versions[500], name)
    canary = engine.load_adapter(versions[501], name, canary_weight=0.25).canary
    assert canary
    engine.set_policy(name, AdapterPolicy(weight=2, max_running=8, tokens_per_minute=60_000))
    async with show(server) as shown:
        page = shown.page
        await page.get_by_label("Show").select_option("with a canary")
        row = page.locator("#lines tr")
        await expect(row).to_have_count(1)
        await expect(row).to_contain_text(f"{canary.version[:8]}, 25 %")
        await expect(row).to_contain_text("weight 2, 8 running, 60,000 tokens/min")
        await page.get_by_role("button", name=name).press("Enter")
        details = page.get_by_role("dialog", name=name)
        await expect(details).to_contain_text(engine.get_adapter(name).version)
        await expect(details).to_contain_text(older)
        await expect(details).to_contain_text(str(versions[500]))
        await page.keyboard.press("Escape")
        await expect(details).to_be_hidden()
        assert await page.evaluate("document.activeElement.textContent") == name
    engine.set_canary(name, 0)


@pytest.mark.slow
async def test_changes_come_by_themselves(
    server: HttpHarness, show: Show, versions: list[Path]
) -> None:
    engine, first = server.server.app.engine, min(NAMES)
    async with show(server, ready=False) as shown:
        page = shown.page
        await page.clock.install()
        await page.reload()
        await expect(page.locator("#found")).to_have_text("1,001 of 1,001")
        await page.locator("#adapters").scroll_into_view_if_needed()
        engine.set_policy(first, AdapterPolicy(weight=3))
        await page.clock.run_for(5_100)
        await expect(page.locator("#lines tr").first).to_contain_text("weight 3")
        engine.load_adapter(versions[3], "another")
        await _later(page)
        await expect(page.locator("#found")).to_have_text("1,002 of 1,002")
        await expect(page.locator("#lines tr").first).to_contain_text("another")
        engine.unload_adapter("another")
        await _later(page)
        await expect(page.locator("#found")).to_have_text("1,001 of 1,001")
        await expect(page.locator("#lines tr").first).to_contain_text(first)
    engine.set_policy(first, AdapterPolicy())


async def _later(page: Page) -> None:
    """Let half a minute pass: the page looks at the server, then at what has changed."""
    async with page.expect_response("**/status"):
        await page.clock.fast_forward(30_000)
    await page.clock.fast_forward(5_000)


async def test_names_stay_texts(server: HttpHarness, show: Show) -> None:
    async with show(server) as shown, streams(server, ODD):
        page = shown.page
        await expect(page.locator("#batch .name")).to_have_text(ODD)
        await expect(page.locator(".cell.running .name")).to_have_text(ODD)
        await page.get_by_label("Search").fill("onerror")
        await page.locator("#lines button").click()
        await expect(page.locator("#details-title")).to_have_text(ODD)
        await page.get_by_role("button", name="Ask it in the playground").click()
        await expect(page.locator("#chosen")).to_contain_text(ODD)
        await page.get_by_role("button", name="Ask", exact=True).click()
        await expect(page.locator(".answer h3").nth(1)).to_have_text(ODD)
        assert await page.locator("img").count() == 0
        assert shown.problems == []


async def test_nothing_comes_from_elsewhere(server: HttpHarness, show: Show) -> None:
    async with show(server) as shown:
        await expect(shown.page.locator("#found")).to_have_text("1,001 of 1,001")
        assert all(url.startswith((server.url, "data:")) for url in shown.requests)
        assert shown.problems == []
        assert await _refused(shown.page, "fetch('http://127.0.0.1:9/')")
        assert await _refused(shown.page, "document.body.insertAdjacentHTML('beforeend', '<b>')")


async def _refused(page: Page, script: str) -> bool:
    refused = "error => { window.refused = error instanceof TypeError }"
    await page.evaluate(f"(async () => {{ await {script} }})().catch({refused})")
    return bool(await page.evaluate("window.refused"))


@pytest.mark.slow
async def test_a_server_that_is_gone_and_back(server: HttpHarness, show: Show) -> None:
    async with show(server) as shown:
        page, alert = shown.page, shown.page.get_by_role("alert")
        await page.route("**/status", lambda route: route.abort())
        await expect(alert).to_have_text("The server cannot be reached.")
        await page.unroute("**/status")
        await expect(alert).to_be_hidden()


@pytest.mark.slow
async def test_a_page_that_nobody_sees_asks_for_nothing(server: HttpHarness, show: Show) -> None:
    hidden = (
        "Object.defineProperty(document, 'hidden', { get: () => window.isHidden, set: () => 0 })"
    )
    async with show(server) as shown:
        page = shown.page
        await page.clock.install()
        await page.reload()
        await page.locator("#state.good").wait_for()
        await page.evaluate(f"window.isHidden = true; {hidden}")
        before = len(shown.requests)
        await page.clock.run_for(60_000)
        assert len(shown.requests) == before
        async with page.expect_request("**/status"):
            await page.evaluate(
                "window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))"
            )


@pytest.mark.parametrize("width", [360, 768])
async def test_narrow_screens(server: HttpHarness, show: Show, width: int) -> None:
    async with show(server, viewport={"width": width, "height": 800}) as shown:
        assert await shown.page.evaluate("document.documentElement.scrollWidth") == width
        await shown.page.get_by_role("link", name="Playground").click()
        await expect(shown.page.get_by_role("button", name="Ask", exact=True)).to_be_in_viewport()
