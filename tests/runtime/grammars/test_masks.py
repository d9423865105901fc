"""Threads of masks: what is slow is waited for by nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from lora_runtime.grammars import masks
from lora_runtime.grammars.masks import MaskThreads


class Row:
    """A row whose mask comes when it is let."""

    def __init__(self, is_slow: bool = False, waits: bool = False) -> None:
        self.is_slow = is_slow
        self.is_ready = self.is_late = self.is_dropped = False
        self.wanted_at = 0.0
        self.let, self.began = threading.Event(), threading.Event()
        if not waits:
            self.let.set()

    def compute(self) -> None:
        self.began.set()
        self.let.wait(60)
        self.is_ready = True


Make = Callable[..., Row]


@pytest.fixture
def late() -> threading.Semaphore:
    return threading.Semaphore(0)


@pytest.fixture
def threads(late: threading.Semaphore) -> Iterator[MaskThreads]:
    made = MaskThreads(late.release)
    yield made
    made.close()


@pytest.fixture
def make(threads: MaskThreads) -> Iterator[Make]:
    rows: list[Row] = []

    def make(**options: bool) -> Row:
        rows.append(row := Row(**options))
        threads.start([row])  # type: ignore[list-item]
        return row

    yield make
    for row in rows:
        row.let.set()


def settle(threads: MaskThreads, *rows: Row) -> list[Row]:
    return threads.settle(rows)  # type: ignore[arg-type, return-value]


def finish(threads: MaskThreads, row: Row) -> None:
    while row in settle(threads, row):
        pass


def test_what_is_there_is_not_late(threads: MaskThreads, make: Make) -> None:
    row = make()
    finish(threads, row)
    assert settle(threads, row) == []
    assert not row.is_late


def test_many_stuck_rows_hold_up_no_other(
    threads: MaskThreads, make: Make, late: threading.Semaphore
) -> None:
    stuck = [make(waits=True) for _ in range(20)]
    while not all(row.began.is_set() for row in stuck):
        assert settle(threads, *stuck) == stuck
    quick = make()
    finish(threads, quick)
    assert all(row.is_late for row in stuck)
    for row in stuck:
        row.let.set()
    for row in stuck:
        assert late.acquire(timeout=60)
        finish(threads, row)
    while len(threads._workers) > masks._QUICK_THREADS + 1:
        finish(threads, make())


def test_slow_rows_are_not_waited_for(
    threads: MaskThreads, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "_PATIENCE_S", 60)
    slow = make(is_slow=True, waits=True)
    assert settle(threads, slow) == [slow]
    finish(threads, make())


def test_rows_that_have_ended_are_passed_over(threads: MaskThreads, make: Make) -> None:
    first = make(is_slow=True, waits=True)
    dropped = make(is_slow=True)
    dropped.is_dropped = True
    last = make(is_slow=True)
    first.let.set()
    finish(threads, last)
    assert not dropped.began.is_set()


def test_who_is_late_for_too_long(
    threads: MaskThreads, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make(is_slow=True, waits=True)
    assert threads.overdue() == []
    settle(threads, row)
    assert threads.overdue() == [row]  # it is wanted since the clock began
    monkeypatch.setattr(masks, "MASK_S", 1e12)
    assert threads.overdue() == []
