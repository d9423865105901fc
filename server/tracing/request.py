"""The trace of one request of the engine, until its spans are made. Nothing of a prompt is kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_runtime import MAX_ID_LENGTH, Request, RequestRecord

now = time.time_ns
"""Nanoseconds as spans count them."""
_MOST = (1 << 63) - 1
"""Largest number in a span."""


@dataclass(frozen=True)
class Load:
    """Load of adapters that a request waited for; times as `now` gives them."""

    adapter_ids: tuple[str, ...]
    begun: int
    ended: int


class RequestTrace:
    """Trace of a request, as its `Request.trace`; the engine gives it back with the request's record."""

    def __init__(self, request: Request, trace_id: str, parent: object | None) -> None:
        """`parent`: what its spans belong to, None where nobody keeps them."""
        self.trace_id, self.parent = trace_id, parent
        self.begun = now()
        self.loads: list[Load] = []
        self.is_chat = request.messages is not None
        self.request_id = request.request_id
        self.adapter_ids = _shown(use.adapter_id for use in request.uses)
        params = request.sampling
        self.max_tokens, self.choices = _bounded(params.max_new_tokens), _bounded(params.n)
        self.temperature, self.top_p = params.temperature, params.top_p
        self.is_written = False
        """Whether its spans are made: a request that was refused at its end has two ends."""

    def note_load(self, adapter_ids: Iterable[str], begun: int, ended: int) -> None:
        self.loads.append(Load(_shown(adapter_ids), begun, ended))


def _shown(adapter_ids: Iterable[str]) -> tuple[str, ...]:
    """Ids as spans have them: what is longer than any adapter's would fill others' batches."""
    return tuple(adapter_id[:MAX_ID_LENGTH] for adapter_id in adapter_ids)


def _bounded(number: int) -> int:
    return max(-_MOST, min(number, _MOST))


@dataclass(frozen=True)
class RequestEnd:
    """End of a request: the engine's record, or what its submission raised; neither where the call
    was gone."""

    trace: RequestTrace
    at: int
    record: RequestRecord | None = None
    error: BaseException | None = None


def log_fields(record: RequestRecord) -> Mapping[str, Any]:
    """Fields of a finished request's line in the log, where it has a trace."""
    trace = record.trace
    return {"trace_id": trace.trace_id} if isinstance(trace, RequestTrace) else {}
