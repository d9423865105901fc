"""Ctrl-C during a load, which asyncio hears in the main thread alone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import grpc
import pytest
from loramux.v1 import inference_pb2, inference_pb2_grpc
from typer.testing import CliRunner

from server.cli import app


class Interrupting(inference_pb2_grpc.InferenceServicer):
    """Answers two calls; the third is never answered, and has Ctrl-C pressed."""

    def __init__(self) -> None:
        self._calls, self.over = 0, Event()

    def Generate(self, request: Any, context: Any) -> inference_pb2.GenerateResponse:
        self._calls += 1
        if self._calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
            self.over.wait(60)
        usage = inference_pb2.Usage(completion_tokens=2)
        return inference_pb2.GenerateResponse(choices=[inference_pb2.Choice(usage=usage)])


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """As a terminal has it, whatever began the tests, or ran loops before, has made of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_gives_what_there_is() -> None:
    server, service = grpc.server(ThreadPoolExecutor(2)), Interrupting()
    inference_pb2_grpc.add_InferenceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        line = ["bench", "--target", f"127.0.0.1:{port}", "--unary", "-c", "1", "--warmup", "0"]
        result = CliRunner().invoke(app, [*line, "--json"])
    finally:
        service.over.set()
        server.stop(None).wait()
    assert result.exit_code == 130, result.output
    report = json.loads(result.stdout)
    assert report["cancelled"]
    assert (report["total"]["ok"], report["total"]["tokens"], report["unfinished"]) == (2, 4, 1)
