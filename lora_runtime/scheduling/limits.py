"""Limits by adapter and by caller, checked before a request is queued."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..api.adapters import AdapterPolicy
from ..errors import RETRY_AFTER_S, AdapterLimitError, CallerLimitError

Key = TypeVar("Key")


class TokenBucket:
    """Tokens per minute: it holds a minute's worth and fills evenly. What was served may overdraw
    it."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def charge(self, tokens: int, now: float) -> None:
        self._fill(now)
        self._level -= tokens

    def wait_s(self, now: float) -> float:
        """Seconds until a request is taken again; 0 if one is taken now."""
        self._fill(now)
        return 0.0 if self._level > 0 else (1 - self._level) * 60 / self.per_minute

    def _fill(self, now: float) -> None:
        self._level = min(
            float(self.per_minute), self._level + (now - self._at) * self.per_minute / 60
        )
        self._at = now


class Limits:
    """Shares of the queue. Thread-safe.

    `policy_of` gives an adapter's policy ("" is the base); `max_running` and `max_waiting` are the
    engine's own. An adapter without a limit, and a caller without one, may hold what can run and
    half of what may wait, and such a caller of one adapter half of what may wait for that: none can
    fill the queue, or an adapter's part of it, for the others. The caller "" is nobody's name, and
    has no limit.
    """

    def __init__(
        self,
        policy_of: Callable[[str], AdapterPolicy],
        max_running: int,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy_of, self._clock = policy_of, clock
        self._max_running, self._half = max_running, _half(max_waiting)
        self._lock = threading.Lock()
        self._unfinished: Counter[str] = Counter()
        self._by_caller: Counter[str] = Counter()
        self._by_both: Counter[tuple[str, str]] = Counter()
        """Sequences by adapter and caller."""
        self._buckets: dict[str, TokenBucket] = {}

    def check(
        self,
        adapter_ids: Sequence[str],
        sequences: int,
        caller: str = "",
        caller_max_waiting: int = 0,
    ) -> None:
        """Check that there is a place for a request, whatever tokens it may take. Raises as `enter`.

        The ids may be anything: nothing is kept of them.
        """
        with self._lock:
            self._check(adapter_ids, sequences, caller, caller_max_waiting)

    def enter(
        self,
        adapter_ids: Sequence[str],
        sequences: int,
        prompt_tokens: int,
        caller: str = "",
        caller_max_waiting: int = 0,
    ) -> None:
        """Count a request in. Raises AdapterLimitError or CallerLimitError, which name whose limit
        it is and which; then nothing is counted."""
        with self._lock:
            self._check(adapter_ids, sequences, caller, caller_max_waiting)
            for adapter_id in adapter_ids:
                self._check_tokens(adapter_id)
            self._count(adapter_ids, caller, sequences)
            for adapter_id in adapter_ids:
                if (bucket := self._bucket(adapter_id)) is not None:
                    bucket.charge(prompt_tokens, self._clock())

    def charge(self, adapter_ids: Sequence[str]) -> None:
        """A token was produced for each of these; an id may come several times."""
        with self._lock:
            for adapter_id in adapter_ids:
                if (bucket := self._bucket(adapter_id)) is not None:
                    bucket.charge(1, self._clock())

    def leave(self, adapter_ids: Sequence[str], sequences: int, caller: str = "") -> None:
        """Take away sequences that have ended."""
        with self._lock:
            self._count(adapter_ids, caller, -sequences)

    def forget(self, adapter_id: str) -> None:
        """Drop what is kept of an adapter that is registered no more."""
        with self._lock:
            self._buckets.pop(adapter_id, None)

    def _count(self, adapter_ids: Sequence[str], caller: str, sequences: int) -> None:
        _add(self._by_caller, caller, sequences)
        for adapter_id in adapter_ids:
            _add(self._unfinished, adapter_id, sequences)
            _add(self._by_both, (adapter_id, caller), sequences)

    def _check(
        self, adapter_ids: Sequence[str], sequences: int, caller: str, caller_max_waiting: int
    ) -> None:
        for adapter_id in adapter_ids:
            policy = self._policy_of(adapter_id)
            waiting = policy.max_waiting or self._half
            # Those that could run at once count beside the waiting ones: a burst into an idle
            # engine is not refused.
            running = policy.max_running or self._max_running
            if self._unfinished[adapter_id] + sequences > running + waiting:
                raise AdapterLimitError(adapter_id, f"{waiting} waiting sequences", RETRY_AFTER_S)
            if not caller or caller_max_waiting:
                continue
            if self._by_both[adapter_id, caller] + sequences > running + _half(waiting):
                limit = f"{_half(waiting)} waiting sequences of one adapter"
                raise CallerLimitError(caller, limit, RETRY_AFTER_S)
        waiting = caller_max_waiting or self._half
        if caller and self._by_caller[caller] + sequences > self._max_running + waiting:
            raise CallerLimitError(caller, f"{waiting} waiting sequences", RETRY_AFTER_S)

    def _check_tokens(self, adapter_id: str) -> None:
        bucket = self._bucket(adapter_id)
        if bucket is not None and (wait := bucket.wait_s(self._clock())):
            raise AdapterLimitError(adapter_id, f"{bucket.per_minute} tokens per minute", wait)

    def _bucket(self, adapter_id: str) -> TokenBucket | None:
        per_minute = self._policy_of(adapter_id).tokens_per_minute
        bucket = self._buckets.get(adapter_id)
        if bucket is None or bucket.per_minute != per_minute:
            self._buckets.pop(adapter_id, None)
            if not per_minute:
                return None
            bucket = self._buckets[adapter_id] = TokenBucket(per_minute, self._clock())
        return bucket


def _half(count: int) -> int:
    return (count + 1) // 2  # of one place, the place: it would be nobody's


def _add(counter: Counter[Key], key: Key, count: int) -> None:
    """Add to a counter that keeps no zeros: ids come and go."""
    counter[key] += count
    if not counter[key]:
        del counter[key]
