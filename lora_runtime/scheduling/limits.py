"""Per-adapter limits, checked before a request is queued."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from ..api.adapters import AdapterPolicy
from ..errors import RETRY_AFTER_S, AdapterLimitError


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
    """Thread-safe. `policy_of` gives an adapter's policy ("" is the base); `max_running` is the
    engine's own."""

    def __init__(
        self,
        policy_of: Callable[[str], AdapterPolicy],
        max_running: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy_of, self._max_running, self._clock = policy_of, max_running, clock
        self._lock = threading.Lock()
        self._unfinished: Counter[str] = Counter()
        self._buckets: dict[str, TokenBucket] = {}

    def enter(self, adapter_ids: Sequence[str], sequences: int, prompt_tokens: int) -> None:
        """Count a request in. Raises AdapterLimitError naming the adapter and its limit; then
        nothing is counted."""
        with self._lock:
            for adapter_id in adapter_ids:
                self._check(adapter_id, sequences)
            for adapter_id in adapter_ids:
                self._unfinished[adapter_id] += sequences
                if (bucket := self._bucket(adapter_id)) is not None:
                    bucket.charge(prompt_tokens, self._clock())

    def charge(self, adapter_ids: Sequence[str]) -> None:
        """A token was produced for each of these; an id may come several times."""
        with self._lock:
            for adapter_id in adapter_ids:
                if (bucket := self._bucket(adapter_id)) is not None:
                    bucket.charge(1, self._clock())

    def leave(self, adapter_ids: Sequence[str], sequences: int) -> None:
        """Take away sequences that have ended."""
        with self._lock:
            for adapter_id in adapter_ids:
                self._unfinished[adapter_id] -= sequences
                if not self._unfinished[adapter_id]:
                    del self._unfinished[adapter_id]

    def forget(self, adapter_id: str) -> None:
        """Drop what is kept of an adapter that is registered no more."""
        with self._lock:
            self._buckets.pop(adapter_id, None)

    def _check(self, adapter_id: str, sequences: int) -> None:
        policy = self._policy_of(adapter_id)
        # Those that could run at once count beside the waiting ones: a burst into an idle engine is
        # not refused.
        most = (policy.max_running or self._max_running) + policy.max_waiting
        if policy.max_waiting and self._unfinished[adapter_id] + sequences > most:
            raise AdapterLimitError(
                adapter_id, f"{policy.max_waiting} waiting sequences", RETRY_AFTER_S
            )
        bucket = self._bucket(adapter_id)
        if bucket is not None and (wait := bucket.wait_s(self._clock())):
            raise AdapterLimitError(
                adapter_id, f"{policy.tokens_per_minute} tokens per minute", wait
            )

    def _bucket(self, adapter_id: str) -> TokenBucket | None:
        per_minute = self._policy_of(adapter_id).tokens_per_minute
        bucket = self._buckets.get(adapter_id)
        if bucket is None or bucket.per_minute != per_minute:
            self._buckets.pop(adapter_id, None)
            if not per_minute:
                return None
            bucket = self._buckets[adapter_id] = TokenBucket(per_minute, self._clock())
        return bucket
