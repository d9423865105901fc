"""Values of labels: a bounded number of them, however many adapters come and go."""

from __future__ import annotations

import threading

from lora_runtime import FinishReason, RequestRecord


class AdapterLabels:
    """Labels of adapters, of which the first `limit` have one of their own."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._own: set[str] = set()
        self._lock = threading.Lock()

    def of(self, record: RequestRecord) -> str:
        """Label of a request's adapter."""
        ids = [use.adapter_id for use in record.adapters]
        if not ids:
            return "base"
        if len(ids) > 1:
            return "composition"
        return ids[0] if self.has_own(ids[0]) else "other"

    def has_own(self, adapter_id: str) -> bool:
        """True if the adapter has a label of its own: that bounds the number of time series."""
        with self._lock:
            if len(self._own) < self._limit:
                self._own.add(adapter_id)
            return adapter_id in self._own


def finish_reason(record: RequestRecord) -> str:
    """What ended a request, in vLLM's words; of several choices what ended the first."""
    if record.outcome != "ok":
        return "error" if record.outcome == "error" else "abort"
    return "length" if record.finish_reasons[:1] == (FinishReason.LENGTH,) else "stop"
