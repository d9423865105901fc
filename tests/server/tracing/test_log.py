"""The id of a call's trace in the lines of the log that are about it, and in no other's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from server.tracing.current import CALL

from ...support.http_front import http_running
from ...support.otlp import collecting
from ...support.servers import make_settings, refused

TRACE = "5" * 32
HEADERS = {"traceparent": f"00-{TRACE}-{'7' * 16}-01"}
METADATA = tuple(HEADERS.items())


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """Lines of the log, with what calls bind to theirs."""
    found: list[Any] = []

    def take(logger: object, method: str, fields: Any) -> Any:
        found.append(fields)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, take])
    yield found
    structlog.configure(**before)


def ids(lines: list[Any], event: str) -> list[str]:
    return [line.get("trace_id", "") for line in lines if line["event"] == event]


async def test_lines_of_a_traced_call(tiny_base: Path, lines: list[Any]) -> None:
    with collecting() as collector:
        settings = make_settings(tiny_base, otlp_traces_endpoint=collector.url)
        async with http_running(settings) as front:
            body = {"prompt": "x", "max_tokens": 1}
            lines.clear()
            assert (
                await front.client.post("/v1/completions", json=body, headers=HEADERS)
            ).is_success
            assert (
                await front.client.post("/v1/completions", json=body | {"n": -1}, headers=HEADERS)
            ).is_client_error
            # One behind the other, in one task, as where a client sends calls ahead.
            assert (await front.client.get("/v1/models")).is_success
            assert CALL.get() is None
            assert "trace_id" not in structlog.contextvars.get_contextvars()
            await refused(
                front.server.inference.Generate(
                    front_request(adapter_id="gone"), metadata=METADATA
                ),
                grpc.StatusCode.NOT_FOUND,
            )
            await front.server.inference.Generate(front_request())
            await front.server.idle_stats()
    (over_http, own) = ids(lines, "request finished")
    assert over_http == TRACE
    assert own not in ("", TRACE)  # a trace of its own: its caller has none
    assert ids(lines, "request rejected") == [TRACE, TRACE]


def front_request(**fields: Any) -> Any:
    from loramux.v1 import inference_pb2

    return inference_pb2.GenerateRequest(prompt="x", max_new_tokens=1, **fields)


async def test_without_traces_lines_have_no_id(tiny_base: Path) -> None:
    async with http_running(make_settings(tiny_base)) as front:
        body = {"prompt": "x", "max_tokens": 1}
        with capture_logs() as lines:
            answer = await front.client.post("/v1/completions", json=body, headers=HEADERS)
            await front.server.idle_stats()
    assert answer.is_success
    (line,) = (one for one in lines if one["event"] == "request finished")
    assert "trace_id" not in line
