"""The route of the page: who gets it, in which headers, and a server without it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from ...support.http_front import http_running
from ...support.servers import make_settings
from ...support.tokens import write_tokens

NO_TOKEN = "loramux: sign in"


async def test_it_is_there_with_a_policy_that_lets_nothing_else_in(tiny_base: Path) -> None:
    async with http_running(make_settings(tiny_base)) as front:
        answer = await front.get("/")
        described = (await front.get("/openapi.json")).json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    policy = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for kind in ("script", "style"):
        inside = re.findall(f"<{kind}>(.+?)</{kind}>", answer.text, re.DOTALL)
        assert [policy[f"{kind}-src"]] == [_hash(text) for text in inside]
    assert not re.search(r"(src|href|action)=.(https?:)?//", answer.text)
    assert "/" not in described["paths"]


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.mark.parametrize("token", ["", "Bearer nobody-secret-token", "Basic YTpi"])
async def test_without_a_token_there_is_a_form_without_data(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path, token: str
) -> None:
    tokens = write_tokens(tmp_path / "tokens.yaml", one={"adapters": [], "read": False})
    settings = make_settings(tiny_base, tiny_adapters, auth_file=tokens)
    async with http_running(settings) as front:
        headers = {"authorization": token} if token else {}
        answer = await front.client.get("/", headers=headers)
        known = await front.get("/", who="one")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert NO_TOKEN in answer.text
    assert "playground" not in answer.text
    assert settings.base not in answer.text
    assert known.status_code == 200
    assert NO_TOKEN not in known.text


async def test_no_page(tiny_base: Path) -> None:
    async with http_running(make_settings(tiny_base, page=False)) as front:
        assert (await front.get("/")).status_code == 404
        assert (await front.get("/health")).status_code == 200
