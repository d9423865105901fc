"""Threads of masks: what is slow is waited for by nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lora_runtime.grammars import masks
from lora_runtime.grammars.masks import MaskThreads


class Row:
    """A row whose mask comes when it is let."""

    def __init__(
        self, is_slow: bool = False, waits: bool = False, is_busy: bool = False, owner: str = ""
    ) -> None:
        self.is_slow, self.is_busy, self.owner = is_slow, is_busy, owner
        self.is_ready = self.is_late = self.is_dropped = self.is_begun = False
        self.let, self.began = threading.Event(), threading.Event()
        self.freed = threading.Semaphore(0)
        if not waits:
            self.let.set()

    def compute(self) -> None:
        self.began.set()
        while self.is_busy and not self.let.is_set():
            pass
        self.let.wait(60)
        self.is_ready = True

    def release(self) -> None:
        self.freed.release()


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

    def make(**options: Any) -> Row:
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
    while len(threads._workers) > masks._QUICK_THREADS + 2:
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


@pytest.mark.parametrize("at", ["before", "while", "behind"])
def test_what_ended_rows_have_is_freed_once(threads: MaskThreads, make: Make, at: str) -> None:
    first = make(is_slow=True, waits=True)
    row = make(is_slow=True, waits=at == "while")
    if at != "before":
        first.let.set()
        row.began.wait(60)
    if at == "behind":
        finish(threads, row)
    threads.drop(row)  # type: ignore[arg-type]
    first.let.set()
    row.let.set()
    assert row.freed.acquire(timeout=60)
    assert row.began.is_set() == (at != "before")
    finish(threads, last := make(is_slow=True))
    threads.drop(last)  # type: ignore[arg-type]
    assert last.freed.acquire(timeout=60)
    assert not row.freed.acquire(blocking=False)


def test_owners_take_turns(threads: MaskThreads, make: Make) -> None:
    first = make(is_slow=True, waits=True, owner="many")
    first.began.wait(60)
    others = [make(is_slow=True, waits=True, owner="many") for _ in range(3)]
    one = make(is_slow=True, owner="one")
    first.let.set()
    others[0].let.set()
    finish(threads, one)
    assert not others[1].is_ready
    assert not others[2].began.is_set()


def test_who_takes_too_long(
    threads: MaskThreads, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, behind = make(is_slow=True, waits=True), make(is_slow=True)
    assert threads.overdue() == []
    row.began.wait(60)
    settle(threads, row, behind)
    assert threads.overdue() == []  # it has waited, and not run
    monkeypatch.setattr(masks, "STUCK_S", 0.0)
    assert threads.overdue() == [row]  # not who waits for it
    finish(threads, behind)  # on another thread


def test_the_time_that_counts_is_the_processor_s(
    threads: MaskThreads, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "MASK_S", 0.05)
    row = make(is_slow=True, waits=True, is_busy=True)
    settle(threads, row)
    while not threads.overdue():  # it ends, since the row never does
        settle(threads, row)
