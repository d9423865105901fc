"""Pages of other origins: what browsers are told that these may do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...support.http_front import http_running
from ...support.servers import make_settings

PAGE, OTHER = "https://chat.example", "https://other.example"
ASKED = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


@pytest.mark.parametrize(
    ("origins", "told"),
    [
        ([], {PAGE: None, OTHER: None}),
        ([PAGE], {PAGE: PAGE, OTHER: None}),
        (["*"], {PAGE: "*", OTHER: "*"}),
    ],
    ids=["none", "one", "any"],
)
async def test_origins(tiny_base: Path, origins: list[str], told: dict[str, str | None]) -> None:
    settings = make_settings(tiny_base, http_cors_origins=origins)
    async with http_running(settings, port=True) as front:
        for origin, allowed in told.items():
            asked = await front.client.options(
                "/v1/chat/completions", headers={"origin": origin, **ASKED}
            )
            called = await front.client.get("/v1/models", headers={"origin": origin})
            assert called.status_code == 200
            for answer in (asked, called):
                assert answer.headers.get("access-control-allow-origin") == allowed
            if allowed:
                headers = ASKED["access-control-request-headers"]
                assert asked.status_code == 200
                assert asked.headers["access-control-allow-headers"] == headers
                assert "retry-after-ms" in called.headers["access-control-expose-headers"]
