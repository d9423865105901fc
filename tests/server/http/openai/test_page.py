"""The page about HTTP says which fields are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.http.app import ROUTES
from server.http.openai.page import filled

GUIDE = Path(__file__).parents[4] / "docs/guide"
PAGE = GUIDE / "http.md"


@pytest.mark.parametrize("page", ["http.md", "security.md"])
def test_the_pages_have_every_route(page: str) -> None:
    text = (GUIDE / page).read_text()
    assert [route.path for route in ROUTES if f"{route.path}`" not in text] == []


def test_the_page_has_the_table_of_fields() -> None:
    text = PAGE.read_text()
    assert "`max_completion_tokens`" in text
    assert text == filled(text)  # python -m server.http.openai.page docs/guide/http.md
