"""A collector that is gone, or answers nobody, costs spans and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from loramux.v1 import inference_pb2

from server.tracing import tracing

from ...support.otlp import collecting
from ...support.servers import Harness, free_port, make_settings, running


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    monkeypatch.setattr(tracing, "_FLUSH_S", 0.2)


async def serve(server: Harness) -> None:
    """Serve more calls than there is room for their spans."""
    message = inference_pb2.GenerateRequest(prompt="x", max_new_tokens=1)
    for _ in range(12):
        await server.inference.Generate(message)


async def test_a_collector_that_is_gone(tiny_base: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with running(make_settings(tiny_base, otlp_traces_endpoint=url)) as server:
        await serve(server)


async def test_a_collector_that_answers_nobody(tiny_base: Path) -> None:
    with collecting() as collector:
        collector.open.clear()
        settings = make_settings(tiny_base, otlp_traces_endpoint=collector.url)
        async with running(settings) as server:
            await serve(server)
            assert collector.asked.wait(20)
            await serve(server)
        # Stopped, and it has still answered nothing.
        assert not collector.open.is_set()
        assert not collector.spans


async def test_a_stop_sends_the_last_spans(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100")
    with collecting() as collector:
        settings = make_settings(tiny_base, otlp_traces_endpoint=collector.url)
        async with running(settings) as server:
            message = inference_pb2.GenerateRequest(prompt="x", max_new_tokens=1)
            await server.inference.Generate(message)
            await server.idle_stats()
        assert len(collector.spans) == 5
