"""A request while it lives in the engine, and its record when it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..adapters.store.version import AdapterVersion
from ..api.reports import RequestRecord
from .handle import RequestHandle
from .sequence import Sequence


@dataclass
class LiveRequest:
    """All choices of one request and the leases they share."""

    handle: RequestHandle
    versions: list[AdapterVersion]
    sequences: list[Sequence]

    @property
    def adapter_ids(self) -> list[str]:
        """Whose limits it counts against; "" is the base."""
        return [use.adapter_id for use in self.handle.adapters] or [""]

    @property
    def waits(self) -> bool:
        """Whether no choice runs now: none has yet, or those that did were preempted."""
        return not any(s.blocks for s in self.sequences)

    @property
    def deadline(self) -> float | None:
        """On the monotonic clock, seconds."""
        timeout = self.handle.request.timeout_s
        return None if timeout is None else self.sequences[0].arrived + timeout

    def record(self, outcome: str) -> RequestRecord:
        first, now = self.sequences[0], time.monotonic()
        return RequestRecord(
            request_id=self.handle.request_id,
            adapter_id=self.handle.request.adapter_id,
            adapter_version=self.handle.adapter_version,
            outcome=outcome,
            prompt_tokens=first.num_prompt,
            cached_tokens=first.cached_tokens or 0,
            completion_tokens=sum(s.num_generated for s in self.sequences),
            queue_s=(first.scheduled_at or now) - first.arrived,
            ttft_s=None if first.first_token_at is None else first.first_token_at - first.arrived,
            e2e_s=now - first.arrived,
            adapters=self.handle.adapters,
            adapter_wait_s=0.0 if first.missed_at is None else (first.scheduled_at or now) - first.missed_at,
            itl_s=tuple(first.token_gaps),
        )
