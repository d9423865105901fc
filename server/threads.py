"""Threads of the server: a pool for each kind of work, so that no kind holds up another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from lora_runtime import EngineStoppedError

T = TypeVar("T")


class Pool:
    """Pool of threads, started as they are needed."""

    def __init__(self, name: str, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, f"loramux-{name}")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue `work`. Raises EngineStoppedError after `close`."""
        try:
            return self._threads.submit(_contained, work)
        except RuntimeError as error:
            raise EngineStoppedError("the server is stopping") from error

    async def run(self, work: Callable[[], T], late: Callable[[T], object] | None = None) -> T:
        """Run `work` on a thread. If the call ends before, it is not begun; `late` gets what it
        gives if it was."""
        working = self.submit(work)
        try:
            return await asyncio.wrap_future(working)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if working.cancelled() and task is not None and not task.cancelling():
                raise EngineStoppedError("the server is stopping") from None
            if late is not None:
                working.add_done_callback(lambda done: _give_late(done, late))
            raise
        finally:
            # Its exception has this frame: a cycle keeps the request until a collection.
            del working

    def close(self) -> None:
        """Start nothing more; what runs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Threads:
    """Pools of one server."""

    def __init__(self) -> None:
        self.starting = Pool("start", 1)
        self.submission = Pool("submit", 32)
        self.administration = Pool("admin", 32)
        self.loading = Pool("loading", 32)
        """Pool for loads: what they come from may be slow, or not answer at all."""
        self.unloading = Pool("unload", 32)
        self.reading = Pool("read", 4)
        """Pool for reports: computing, for the most part, which more threads make no faster."""
        self.answering = Pool("answer", 4)
        self.parsing = Pool("parse", 1)
        """Pool for texts of strangers: two at once would take the interpreter from steps for longer."""

    def close(self) -> None:
        for pool in vars(self).values():
            pool.close()


class Turns:
    """Turns at a pool: each key has `most` at once, so that no key has all of the threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def taken(self, *keys: Hashable) -> AsyncIterator[None]:
        """Wait for a turn of each key, in their order, and hold it."""
        if not keys:
            yield
            return
        first, *others = keys
        turn, users = self._keys.get(first, (asyncio.Semaphore(self._most), 0))
        self._keys[first] = turn, users + 1
        try:
            async with turn, self.taken(*others):
                yield
        finally:
            turn, users = self._keys.pop(first)
            if users > 1:
                self._keys[first] = turn, users - 1


def _contained(work: Callable[[], T]) -> T:
    """Run `work`; what a library of Rust raises when it panics is no Exception, and would pass
    everything that ends a call with a status."""
    try:
        return work()
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _give_late(done: Future[T], late: Callable[[T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        late(done.result())
