"""The playground: one prompt, up to four models, each answer in its own column."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from ..support.http_front import HttpHarness, http_running
from ..support.servers import make_settings
from ..support.slow import slow_but
from .conftest import Pace, Show

NAMES = [f"a{i}" for i in range(8)]
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def few(tiny_base: Path, tiny_adapters: dict[str, Path]) -> AsyncIterator[HttpHarness]:
    """A server of eight adapters."""
    async with http_running(make_settings(tiny_base, tiny_adapters), port=True) as front:
        front.server.app.engine.add_observer(Pace())
        yield front


async def choose(page: Page, *names: str) -> None:
    for name in names:
        await page.get_by_label("Models, up to four").fill(name)
        await page.get_by_role("button", name="Add", exact=True).click()


async def ask(page: Page) -> None:
    await page.get_by_role("button", name="Ask", exact=True).click()


@pytest.mark.parametrize("form", slow_but(["chat"], ["chat", "plain text"]))
async def test_four_models_side_by_side(few: HttpHarness, show: Show, form: str) -> None:
    models = ["", *NAMES[:3]]
    async with show(few) as shown:
        page = shown.page
        await choose(page, *models[1:])
        await page.get_by_label("Prompt").fill("Tell me about dogs.")
        await page.get_by_label("Most tokens").fill("12")
        await page.get_by_role("combobox", name="As", exact=True).select_option(form)
        await ask(page)
        await expect(page.locator("#said")).to_contain_text(f"{NAMES[2]}: cut at its most tokens.")
        columns = page.get_by_role("article")
        await expect(columns).to_have_count(4)
        for i, model in enumerate(models):
            text = await columns.nth(i).locator(".text").text_content()
            assert text == await _answer(few, form, model)
            await expect(columns.nth(i).locator("h3")).to_have_text(model or "base model")
            await expect(columns.nth(i)).to_contain_text("12 tokens, first text after ")
        version = few.server.app.engine.get_adapter(NAMES[0]).version[:8]
        await expect(columns.nth(1)).to_contain_text(f"version {version}")
        assert shown.problems == []


async def _answer(server: HttpHarness, form: str, model: str) -> str:
    prompt = "Tell me about dogs."
    body = {"model": model, "max_tokens": 12, "temperature": 0}
    if form == "chat":
        messages = [{"role": "user", "content": prompt}]
        told = await server.post("/v1/chat/completions", {**body, "messages": messages})
        return str(told.json()["choices"][0]["message"]["content"])
    told = await server.post("/v1/completions", {**body, "prompt": prompt})
    return str(told.json()["choices"][0]["text"])


@pytest.mark.slow
async def test_one_that_fails_leaves_the_others(few: HttpHarness, show: Show) -> None:
    async with show(few) as shown:
        page = shown.page
        await choose(page, "nobody", NAMES[1])
        await page.get_by_label("Most tokens").fill("8")
        await ask(page)
        columns = page.get_by_role("article")
        await expect(columns.nth(1).locator(".text.wrong")).to_contain_text("nobody")
        await expect(columns.nth(2)).to_contain_text("8 tokens")
        await expect(columns.nth(0)).to_contain_text("8 tokens")


@pytest.mark.slow
async def test_no_more_than_four_and_none_twice(few: HttpHarness, show: Show) -> None:
    async with show(few) as shown:
        page, chips = shown.page, shown.page.locator("#chosen li")
        await choose(page, NAMES[0], NAMES[0])
        await expect(chips).to_have_count(2)
        await expect(page.locator("#said")).to_have_text(f"{NAMES[0]} is among them already.")
        await choose(page, *NAMES[1:5])
        await expect(chips).to_have_count(4)
        await expect(page.locator("#said")).to_contain_text("There are 4 already")
        await page.get_by_role("button", name="Take away base model").click()
        await expect(chips.last).to_have_text("+ base model")
        await chips.last.get_by_role("button").click()
        await expect(chips).to_have_text([re.compile(name) for name in [*NAMES[:3], "base model"]])


@pytest.mark.slow
async def test_names_are_suggested(few: HttpHarness, show: Show) -> None:
    async with show(few) as shown:
        page, options = shown.page, shown.page.locator("#names option")
        await expect(page.locator("#found")).to_have_text("8 of 8")
        await choose(page, "a3")
        for words, wanted in (("A", [*NAMES[:3], *NAMES[4:]]), ("7", ["a7"]), ("x", [])):
            await page.get_by_label("Models, up to four").fill(words)
            assert await options.evaluate_all("all => all.map(one => one.value)") == wanted


async def test_stop_ends_the_requests(few: HttpHarness, show: Show) -> None:
    async with show(few) as shown:
        page = shown.page
        await choose(page, NAMES[0], NAMES[1])
        await page.get_by_label("Most tokens").fill("450")
        await ask(page)
        stop = page.get_by_role("button", name="Stop")
        await expect(page.locator(".answer .text").nth(2)).not_to_be_empty()
        await stop.click()
        await expect(page.get_by_role("article").nth(2)).to_contain_text("stopped")
        await expect(stop).to_be_disabled()
        stats = await few.server.idle_stats()
        assert stats.leases == 0
        await expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
