"""The log: nobody waits for who reads it, floods are counted, and all of it has one form."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from loramux.v1 import inference_pb2 as pb
from structlog.testing import capture_logs

from lora_runtime import RequestRecord
from server.logs import LineLimit, RequestLog
from server.logs.line_queue import LineQueue

from ..support.servers import Harness, make_settings, refused, running
from ..support.tokens import bearer, write_tokens

Code = grpc.StatusCode


class Pipe:
    """A pipe for a log; full from the start, so that a writer waits."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, 4096)
        self.filling = b""

    def fill(self) -> None:
        os.set_blocking(self.write, False)
        try:
            while True:
                self.filling += b"x" * os.write(self.write, b"x")
        except BlockingIOError:
            pass

    def lines(self, queue: LineQueue) -> list[str]:
        """What comes when somebody reads."""
        text = b""

        def read() -> None:
            nonlocal text
            while data := os.read(self.read, 1 << 16):
                text += data

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        assert queue.finish(20)
        os.close(self.write)
        reader.join(20)
        return text.removeprefix(self.filling).decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for fd in (pipe.read, pipe.write):
        with contextlib.suppress(OSError):
            os.close(fd)


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("test", level, __file__, 1, text, None, None)


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_that_nobody_reads_are_dropped_and_counted(pipe: Pipe, blocking: bool) -> None:
    pipe.fill()
    os.set_blocking(pipe.write, blocking)
    queue = LineQueue(pipe.write, size=8, reserved=3)
    queue.setFormatter(logging.Formatter("%(message)s %(count)s", defaults={"count": ""}))
    for i in range(50):
        queue.handle(record(f"info {i}"))
    for i in range(50):
        queue.handle(record(f"error {i}", logging.ERROR))
    dropped = queue.dropped
    lines = pipe.lines(queue)
    (told,) = [line for line in lines if line.startswith("log lines dropped")]
    assert told == f"log lines dropped {dropped}"
    infos = [line for line in lines if line.startswith("info")]
    errors = [line for line in lines if line.startswith("error")]
    # One line may be with the writer, who waits.
    assert len(infos) in (5, 6)
    assert len(errors) in (3, 4)
    assert len(infos) + len(errors) + dropped == 100


def test_the_end_does_not_wait_for_a_reader(pipe: Pipe) -> None:
    pipe.fill()
    queue = LineQueue(pipe.write)
    queue.handle(record("line"))
    assert not queue.finish(0.01)


def test_a_reader_that_is_gone(pipe: Pipe) -> None:
    queue = LineQueue(pipe.write)
    os.close(pipe.read)
    for i in range(10):
        queue.handle(record(f"info {i}"))
    assert queue.finish(20)
    assert queue.dropped == 10


def test_a_line_is_as_it_was_when_it_was_logged(pipe: Pipe) -> None:
    pipe.fill()
    queue = LineQueue(pipe.write)
    changing = ["before"]
    for _ in range(2):
        queue.handle(logging.LogRecord("test", logging.INFO, "", 1, "%s", (changing,), None))
    changing[0] = "after"
    assert pipe.lines(queue) == ["['before']"] * 2


def test_floods_are_counted() -> None:
    now = 0.0
    limit = LineLimit(per_s=10, tell_s=1000, clock=lambda: now)
    with capture_logs() as lines:
        assert sum(limit.allows("a") for _ in range(50)) == 10
        assert limit.allows("b")
        now += 0.55
        assert sum(limit.allows("a") for _ in range(50)) == 5
        limit.tell()
        limit.tell()
    assert [(line["event"], line["reason"], line["count"]) for line in lines] == [
        ("refusals not logged", "a", 85)
    ]


def test_what_was_left_out_is_told_by_itself() -> None:
    told = threading.Event()

    class Telling(LineLimit):
        def tell(self) -> None:
            super().tell()
            told.set()

    with capture_logs() as lines:
        limit = Telling(per_s=1, tell_s=0.01)
        assert [limit.allows("a") for _ in range(3)] == [True, False, False]
        assert told.wait(20)
    assert sum(line["count"] for line in lines) == 2


@pytest.mark.parametrize(("share", "lines"), [(0, 0), (0.5, 500), (1, 1000)])
def test_request_lines_can_be_sampled(share: float, lines: int) -> None:
    log = RequestLog(share)
    with capture_logs() as logged:
        for _ in range(1000):
            log.on_request_finished(finished("ok"))
        for outcome in ("error", "timeout"):
            log.on_request_finished(finished(outcome))
    assert [line["outcome"] for line in logged[-2:]] == ["error", "timeout"]
    assert abs(len(logged) - 2 - lines) <= (150 if share == 0.5 else 0)


BOTH_WAYS = """
import sys
import structlog
from server import logs
from server.logs.setup import write_info
logs.configure(*sys.argv[1:])
fields = {"adapter": "a\\n\\u00fc\\udc80", "n": 1, "ms": None, "parts": [{"id": "x", "weight": 0.5}]}
if write_info("request finished", fields):
    structlog.get_logger("loramux.server").info("request finished", **fields)
"""


def told(log_format: str, level: str) -> list[str]:
    command = [sys.executable, "-c", BOTH_WAYS, log_format, level]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


def test_the_direct_line_is_what_structlog_writes() -> None:
    direct, usual = (json.loads(line) for line in told("json", "INFO"))
    assert direct.pop("timestamp") <= usual.pop("timestamp")
    assert list(direct.items()) == list(usual.items())


@pytest.mark.parametrize(("log_format", "level"), [("json", "WARNING"), ("console", "INFO")])
def test_there_is_no_direct_line_where_none_is_wanted(log_format: str, level: str) -> None:
    assert told(log_format, level) == []


def finished(outcome: str) -> RequestRecord:
    return RequestRecord("r", "a", "v", outcome, 1, 0, 1, 0.0, None, 0.1)


async def test_refusals_are_found_by_their_ids(served: Harness) -> None:
    bad: list[tuple[dict[str, Any], Code]] = [
        ({"prompt": "", "request_id": "mine"}, Code.INVALID_ARGUMENT),
        ({"prompt": "hi", "adapter_id": "nope"}, Code.NOT_FOUND),
        ({"prompt": "hi", "request_id": "two words"}, Code.INVALID_ARGUMENT),
    ]
    with capture_logs() as logs:
        errors = [await refused(served.generate(**fields), code) for fields, code in bad]
        by_metadata = served.inference.Generate(
            pb.GenerateRequest(prompt=""), metadata=(("x-request-id", "from-metadata"),)
        )
        errors.append(await refused(by_metadata, Code.INVALID_ARGUMENT))
        served.app.engine.stop_admitting()
        errors.append(await refused(served.generate(prompt="hi"), Code.UNAVAILABLE))
    told = [dict(error.trailing_metadata())["x-request-id"] for error in errors]
    lines = [line for line in logs if line["event"] == "request rejected"]
    assert [line["request_id"] for line in lines] == told
    assert (told[0], told[3]) == ("mine", "from-metadata")
    assert all(told)
    assert "two words" not in told
    assert lines[1]["adapter"] == "nope"


async def test_refused_tokens_have_ids_and_are_limited(tiny_base: Path, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens.yaml", user={"adapters": ["a0"]})
    async with running(make_settings(tiny_base, auth_file=tokens)) as served:
        with capture_logs() as logs:
            errors = [await refused(served.generate(), Code.UNAUTHENTICATED) for _ in range(100)]
            call = served.inference.Generate(
                pb.GenerateRequest(request_id="mine"), metadata=bearer("user")
            )
            errors.append(await refused(call, Code.PERMISSION_DENIED))
    lines = [line for line in logs if line["event"] == "call refused"]
    told = [dict(error.trailing_metadata())["x-request-id"] for error in errors]
    assert len(set(told)) == 101
    assert 10 <= len(lines) - 1 < 100
    assert {line["request_id"] for line in lines} <= set(told)
    assert lines[-1]["request_id"] == told[-1] == "mine"
    counted = served.app.metrics.registry.get_sample_value
    assert counted("loramux_calls_refused_total", {"reason": "unauthenticated"}) == 100
