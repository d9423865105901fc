"""The processes that attack, as a test has them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..support.tokens import token_of
from .neighbour import CLIENTS, ENVIRONMENT
from .server import ROOT

PATIENCE_S = 60
"""A generous wait: what hangs fails by its own deadline before."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    code: str
    reason: str = ""
    details: str = ""
    seconds: float = 0.0
    messages: Sequence[bytes] = ()


class _Worker:
    """A process of clients/worker.py."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", f"{CLIENTS}.worker"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, name: str, args: Sequence[Any], more: dict[str, Any]) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        pickle.dump((name, args, more), self.process.stdin)
        self.process.stdin.flush()
        fine, value = pickle.load(self.process.stdout)
        if not fine:
            raise RuntimeError(f"the attacker failed: {value}")
        return value


class Attackers:
    """Some processes; each piece of work takes one."""

    def __init__(self, count: int = 3) -> None:
        self._free = [_Worker() for _ in range(count)]
        self._pool = ThreadPoolExecutor(count)

    def send(
        self, target: str, method: str, requests: Sequence[bytes], caller: str = "", **how: Any
    ) -> list[Outcome]:
        """Send all at once and wait for every end."""
        return self.start(target, method, requests, caller, **how).result(2 * PATIENCE_S)

    def start(
        self, target: str, method: str, requests: Sequence[bytes], caller: str = "", **how: Any
    ) -> Future[list[Outcome]]:
        """As `send`, without waiting."""
        token = token_of(caller) if caller else ""

        def work() -> list[Outcome]:
            found = self._run("send", target, method, requests, token, **how)
            return [Outcome(*one) for one in found]

        return self._pool.submit(work)

    def repeat(
        self,
        target: str,
        method: str,
        request: bytes,
        caller: str,
        seconds: float,
        threads: int = 4,
    ) -> dict[str, int]:
        """Call again and again on some connections; how many ended with each code."""
        return self._run("repeat", target, method, request, token_of(caller), seconds, threads)

    def post(
        self, target: str, posts: Sequence[tuple[str, bytes]], caller: str = "", **how: Any
    ) -> Future[list[Outcome]]:
        """As `start`, over HTTP: paths and bodies."""
        token = token_of(caller) if caller else ""

        def work() -> list[Outcome]:
            return [Outcome(*one) for one in self._run("post", target, posts, token, **how)]

        return self._pool.submit(work)

    def leave_posts_unread(
        self, target: str, post: tuple[str, bytes], caller: str, streams: int, seconds: float
    ) -> Future[int]:
        """As `leave_unread`, over HTTP."""
        args = (target, post, token_of(caller), streams, seconds)
        return self._pool.submit(self._run, "leave_posts_unread", *args)

    def repeat_get(
        self, target: str, path: str, caller: str, seconds: float, connections: int = 4
    ) -> dict[str, int]:
        """As `repeat`, pages over HTTP."""
        token = token_of(caller) if caller else ""
        return self._run("repeat_get", target, path, token, seconds, connections)

    def leave_unread(
        self, target: str, method: str, request: bytes, caller: str, streams: int, seconds: float
    ) -> Future[int]:
        """Open streams whose first message alone is read; how many gave one."""
        args = (target, method, request, token_of(caller), streams, seconds)
        return self._pool.submit(self._run, "leave_unread", *args)

    def _run(self, name: str, *args: Any, **more: Any) -> Any:
        worker = self._free.pop()  # there are as many as threads
        try:
            return worker.run(name, args, more)
        finally:
            self._free.append(worker)

    def close(self) -> None:
        for worker in self._free:
            worker.process.kill()
            worker.process.wait()
        self._pool.shutdown()
