"""The page where there are tokens: no token, no page; what a token may not see is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from ..support.http_front import HttpHarness, http_running
from ..support.servers import make_settings
from ..support.tokens import token_of, write_tokens
from .conftest import Show

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def guarded(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[HttpHarness]:
    tokens = write_tokens(
        tmp_path_factory.mktemp("tokens") / "tokens.yaml",
        all={"adapters": ["*"]},
        some={"adapters": ["a1", "a2"]},
        user={"adapters": ["a1"], "read": False},
    )
    settings = make_settings(tiny_base, tiny_adapters, auth_file=tokens)
    async with http_running(settings, port=True) as front:
        yield front


async def sign_in(page: Page, token: str) -> None:
    await page.get_by_label("Token", exact=True).fill(token)
    await page.get_by_role("button", name="Show the server").click()


@pytest.mark.slow
async def test_a_wrong_token_then_a_right_one(guarded: HttpHarness, show: Show) -> None:
    async with show(guarded, ready=False) as shown:
        page = shown.page
        for wrong in ("wrong", "wröng ☃"):
            await sign_in(page, wrong)
            await expect(page.get_by_role("alert")).to_contain_text("token")
        await sign_in(page, token_of("all"))
        await expect(page.locator("#found")).to_have_text("8 of 8")
        await page.reload()
        await expect(page.locator("#found")).to_have_text("8 of 8")
        wrong_kinds = [line for line in shown.problems if "401" not in line]
        assert wrong_kinds == []
        assert all(url.startswith((guarded.url, "data:")) for url in shown.requests)
        assert token_of("all") not in "".join(shown.requests)


@pytest.mark.slow
async def test_a_scope_and_signing_out(guarded: HttpHarness, show: Show) -> None:
    async with show(guarded, ready=False) as shown:
        page = shown.page
        await sign_in(page, token_of("some"))
        await expect(page.locator("#lines th")).to_have_text(["a1", "a2"])
        hidden = page.locator("#slot-cells", has_text="outside this token's scope")
        await expect(hidden).to_have_count(1)
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Token", exact=True)).to_be_visible()
        await page.reload()
        await expect(page.get_by_label("Token", exact=True)).to_be_visible()


async def test_a_token_that_may_not_read_has_the_playground(
    guarded: HttpHarness, show: Show
) -> None:
    async with show(guarded, ready=False) as shown:
        page = shown.page
        await sign_in(page, token_of("user"))
        await expect(page.get_by_role("alert")).to_contain_text("may not read")
        await expect(page.locator("#adapters")).to_be_hidden()
        await expect(page.get_by_role("navigation").get_by_role("link")).to_have_text("Playground")
        await page.get_by_label("Models, up to four").fill("a1")
        await page.keyboard.press("Enter")
        await page.get_by_label("Most tokens").fill("4")
        await page.get_by_role("button", name="Ask", exact=True).click()
        columns = page.get_by_role("article")
        await expect(columns.nth(0)).to_contain_text("outside this token's scope")
        await expect(columns.nth(1)).to_contain_text("4 tokens")


async def test_a_token_that_ends_asks_for_another(guarded: HttpHarness, show: Show) -> None:
    async with show(guarded, ready=False) as shown:
        page = shown.page
        await sign_in(page, token_of("all"))
        await expect(page.locator("#state.good")).to_be_visible()
        await page.route("**/status", lambda route: route.fulfill(status=401, body=""))
        await expect(page.get_by_label("Token", exact=True)).to_be_visible()
        assert await page.evaluate("sessionStorage.length") == 0
