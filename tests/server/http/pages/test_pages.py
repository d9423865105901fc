"""Health, metrics and version over HTTP, and what every call has."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs

from lora_runtime import __version__
from server.http.metrics_page import MetricsPage
from server.lifecycle.readiness import ServerState
from server.threads import Threads

from ....support.http_front import HttpHarness, http_running
from ....support.servers import make_settings
from ....support.tokens import write_tokens


@pytest.fixture
def settings(tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path) -> Any:
    tokens = write_tokens(
        tmp_path / "tokens.yaml",
        root={"adapters": ["*"]},
        user={"adapters": ["a0"]},
        blind={"adapters": ["*"], "read": False},
    )
    adapters = {"a0": tiny_adapters["a0"]}
    return make_settings(tiny_base, adapters, auth_file=tokens, served_model_names=["tiny"])


async def statuses(front: HttpHarness, *paths: str, who: str = "") -> list[int]:
    return [(await front.get(path, who)).status_code for path in paths]


async def test_health_is_that_of_grpc(settings: Any) -> None:
    async with http_running(settings, load=False) as front:
        assert await statuses(front, "/health", "/live", "/v1/models") == [503, 200, 401]
        answer = await front.get("/v1/models", "root")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    async with http_running(settings) as front:
        health = front.server.app._health
        assert await statuses(front, "/health", "/live") == [200, 200]
        assert (await front.get("/health")).json() == {"status": "ready"}
        health.stalled()
        assert await statuses(front, "/health", "/live") == [503, 503]
        health.recovered()
        health.draining()
        assert await statuses(front, "/health", "/live") == [503, 200]
        assert await statuses(front, "/v1/models", who="root") == [200]
        health.failed()
        assert await statuses(front, "/health", "/live") == [503, 503]
        assert front.server.app._readiness.state is ServerState.FAILED


async def test_pages_about_the_server(settings: Any) -> None:
    async with http_running(settings) as front:
        assert (await front.get("/version", "user")).json() == {"version": __version__}
        assert await statuses(front, "/version", "/metrics") == [401, 401]
        assert await statuses(front, "/version", "/metrics", who="blind") == [403, 403]
        # Metrics name every adapter.
        assert await statuses(front, "/metrics", who="user") == [403]
        await front.get("/nowhere")
        page = await front.get("/metrics", "root")
        assert page.headers["content-type"].startswith("text/plain; version=")
        lines = page.text.splitlines()
        for line in (
            'loramux_http_requests_total{route="GET /version",status="200"} 1.0',
            'loramux_http_requests_total{route="GET /version",status="401"} 1.0',
            'loramux_http_requests_total{route="other",status="404"} 1.0',
            'loramux_calls_refused_total{reason="unauthenticated"} 2.0',
            "loramux_open_http_requests 1.0",
            "loramux_open_http_connections 0.0",
        ):
            assert line in lines


async def test_a_page_is_made_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, threads, made = CollectorRegistry(), Threads(), list[int]()
    Counter("one", "One.", registry=registry)
    collect = registry.collect

    def counted() -> Any:
        made.append(1)
        return collect()

    monkeypatch.setattr(registry, "collect", counted)
    page = MetricsPage(registry, threads.reading, bytes)
    asked = [asyncio.create_task(page.page("")) for _ in range(9)]
    await asyncio.sleep(0)
    asked[0].cancel()  # who goes takes nobody's page away
    pages = await asyncio.gather(*asked[1:])
    assert len(made) == 1
    assert {text for text, _ in pages} == {(await page.page(""))[0]}
    assert len(made) == 2
    assert (await page.page("application/openmetrics-text; version=1.0.0"))[0].endswith(b"# EOF\n")
    made.clear()
    wanted = [f"application/openmetrics-text; version={n}.0.0" for n in range(1, 9)]
    pages = await asyncio.gather(*map(page.page, wanted))
    assert (len(made), {kind.partition("; charset")[0] for _, kind in pages}) == (1, {wanted[0]})
    threads.close()


async def test_ids_of_calls(settings: Any) -> None:
    async with http_running(settings) as front:
        mine = await front.client.get("/health", headers={"x-request-id": "mine"})
        assert mine.headers["x-request-id"] == "mine"
        for bad in ("a b", "x" * 200, "\x7f"):
            answer = await front.client.get("/nowhere", headers={"x-request-id": bad})
            assert len(answer.headers["x-request-id"]) == 32


async def test_what_is_not_served(settings: Any) -> None:
    async with http_running(settings) as front:
        answer = await front.client.post("/chat/completions")  # a `base_url` without its end
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
        assert answer.json()["error"]["message"].endswith("OpenAI's begin with /v1/")
        answer = await front.client.post("/v1/models")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        answer = await front.client.options("/v1/chat/completions")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no-json": (
        {"content": b"{", "headers": {"content-type": "application/json"}},
        400,
        "invalid_json",
    ),
    "list": ({"json": [1]}, 400, "invalid_json"),
    "form": ({"data": {"a": "b"}}, 415, "unsupported_media_type"),
    "plain": (
        {"content": b"{}", "headers": {"content-type": "text/plain"}},
        415,
        "unsupported_media_type",
    ),
    "unnamed": ({"content": b"{}"}, 415, "unsupported_media_type"),
    "packed": ({"json": {}, "headers": {"content-encoding": "gzip"}}, 415, "unsupported_encoding"),
    "large": ({"json": {"prompt": "a" * 20_000}}, 413, "request_too_large"),
}


@pytest.mark.parametrize(("sent", "status", "code"), REFUSED.values(), ids=REFUSED)
async def test_bodies_that_are_refused(
    tiny_base: Path, sent: dict[str, Any], status: int, code: str
) -> None:
    async with http_running(make_settings(tiny_base, max_message_bytes=16_384)) as front:
        with capture_logs() as lines:
            answer = await front.client.post("/tokenize", **sent)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        (line,) = lines
        assert (line["event"], line["reason"]) == ("request rejected", code)
        assert line["request_id"] == answer.headers["x-request-id"]
        assert line["method"] == "POST /tokenize"


async def test_a_failure_of_the_server_s_own_tells_no_caller_why(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_running(settings) as front:
        monkeypatch.setattr(front.server.app.engine, "adapter_ids", lambda: 1 / 0)
        with capture_logs() as lines:
            answer = await front.get("/v1/models", "root")
        assert answer.status_code == 500
        assert answer.json()["error"] == {
            "message": "the server failed to serve this request",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
        assert [line["event"] for line in lines] == ["call failed"]


async def test_no_token_is_shown_to_the_log(settings: Any) -> None:
    async with http_running(settings) as front:
        with capture_logs() as lines:
            for headers in (
                [("authorization", "Bearer secret")],
                [("authorization", "Basic secret")],
                [("authorization", "Bearer root-secret-token")] * 2,
            ):
                answer = await front.client.get("/v1/models", headers=httpx.Headers(headers))
                assert answer.status_code == 401
        assert [line["reason"] for line in lines] == ["no valid token"] * 3
        assert "secret" not in str(lines)
