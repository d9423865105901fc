"""Lines that are written together: how many, what waits for no others, and who may log when."""

from __future__ import annotations

import logging
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from server.logs import line_queue
from server.logs.line_queue import LineQueue


class Written(LineQueue):
    """Queue that keeps what it writes, and holds its writer back while `may_write` is not set."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.may_write, self.is_writing = threading.Event(), threading.Event()
        self.may_write.set()
        super().__init__(-1)
        self.setFormatter(logging.Formatter("%(message)s"))

    def _write(self, line: str) -> bool:
        self.is_writing.set()
        self.may_write.wait()
        self.writes.append(line)
        return True


@pytest.fixture
def without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait for others longer than a test does."""
    monkeypatch.setattr(line_queue, "_GATHER_S", 1000)


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("test", level, __file__, 1, text, None, None)


def test_lines_are_joined_up_to_what_a_pipe_takes_at_once() -> None:
    queue = Written()
    queue.may_write.clear()
    queue.put("first")
    assert queue.is_writing.wait(20)
    half = "x" * (select.PIPE_BUF // 2)
    lines = [half, half, "short", half, "last"]
    for line in lines:
        queue.put(line)
    assert not queue.finish(0)
    queue.may_write.set()
    assert queue.finish(20)
    assert queue.writes == ["first", half, f"{half}\nshort", f"{half}\nlast"]


@pytest.mark.usefixtures("without_end")
def test_a_warning_waits_for_no_others_and_takes_them_along() -> None:
    queue = Written()
    for i in range(3):
        queue.put(f"info {i}")
    queue.handle(record("warning", logging.WARNING))
    assert queue.is_writing.wait(20)
    assert queue.finish(20)
    assert queue.writes == ["info 0\ninfo 1\ninfo 2\nwarning"]


@pytest.mark.usefixtures("without_end")
def test_the_end_waits_for_no_others() -> None:
    queue = Written()
    queue.handle(record("info"))
    assert queue.finish(20)
    assert queue.writes == ["info"]


@contextmanager
def interrupted(handler: Any) -> Iterator[None]:
    """Call `handler` wherever a signal's could be: between all operations of this thread."""

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_a_signals_handler_may_log_in_the_middle_of_a_line() -> None:
    queue = Written()
    logged = 0

    def handler() -> None:
        nonlocal logged
        logged += 1
        queue.handle(record("of the handler", logging.WARNING))

    def log() -> None:
        with interrupted(handler):
            queue.handle(record("warning", logging.WARNING))
            queue.put("info")
            queue.finish(0)

    thread = threading.Thread(target=log, daemon=True)  # it would wait for itself without end
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert queue.finish(20)
    lines = "\n".join(queue.writes).splitlines()
    assert (lines.count("of the handler"), lines.count("warning"), lines.count("info")) == (
        logged,
        1,
        1,
    )
