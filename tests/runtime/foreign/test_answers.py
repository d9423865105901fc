"""Reading of answers in a worker: what it leaves of the machine to others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from lora_runtime.foreign.answers import OPEN, READ
from lora_runtime.foreign.process import WORKERS, Worker, WorkError, WorkLimits

LONG = {
    "start_anchor": "x",
    "fields": {"tool_calls": {"open_pattern": "(a|aa)+$", "content": "json"}, "content": {}},
}
_PROGRAM = f"""
from lora_runtime.foreign.answers import open_answers, read_on
open_answers({LONG!r}, "x", [], True, 1)
read_on([(0, "no", False)])
print("quick", flush=True)
input()
read_on([(0, "a" * 60 + "b", False)])
"""


@pytest.fixture
def worker() -> Iterator[Worker]:
    use = WORKERS.use()
    with WORKERS.worker() as worker:
        yield worker
    use.close()


def ask(worker: Worker, work: str, *arguments: object) -> object:
    return worker.ask(work, *arguments, limits=WorkLimits(60.0, 256 << 20), max_bytes=1 << 20)


def test_a_pattern_that_takes_long_has_the_lowest_priority() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reading:
        assert reading.stdin is not None
        assert reading.stdout is not None
        assert reading.stdout.readline() == "quick\n"
        before = os.getpriority(os.PRIO_PROCESS, reading.pid)
        reading.stdin.write("\n")
        reading.stdin.flush()
        while (now := os.getpriority(os.PRIO_PROCESS, reading.pid)) == before:
            assert reading.poll() is None
            time.sleep(0.01)
        reading.kill()
    assert now == 19


def test_it_is_of_no_use_to_others_then(worker: Worker) -> None:
    opened: tuple[object, ...] = (LONG, "x", [], True, 1)
    ask(worker, OPEN, *opened)
    ask(worker, READ, [(0, "no", False)])
    ask(worker, OPEN, *opened)
    ask(worker, READ, [(0, "a" * 28 + "b", True)])
    with pytest.raises(WorkError):
        ask(worker, OPEN, *opened)
