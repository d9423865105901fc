"""Collects what an engine reports while a benchmark runs."""

from __future__ import annotations

import threading

from lora_runtime import AdapterInfo, EngineObserver, RequestRecord, StepStats


class Recorder(EngineObserver):
    """Requests by id, the load of every adapter that was read, and steps. `clear` between phases."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.clear()

    def clear(self) -> None:
        with self._changed:
            self.records: dict[str, RequestRecord] = {}
            self.load_s: dict[str, float] = {}
            """By adapter id, the last one."""
            self.steps: list[StepStats] = []
            self.gaps: dict[str, list[float]] = {}
            """Seconds between the tokens of first choices, by request id."""

    def wait_for(self, request_ids: set[str]) -> None:
        """Until all of these have ended."""
        with self._changed:
            self._changed.wait_for(lambda: request_ids <= self.records.keys())

    def on_step(self, stats: StepStats) -> None:
        self.steps.append(stats)
        for request_id, gap in stats.token_gaps:
            self.gaps.setdefault(request_id, []).append(gap)

    def on_request_finished(self, record: RequestRecord) -> None:
        with self._changed:
            self.records[record.request_id] = record
            self._changed.notify_all()

    def on_adapter_loaded(self, info: AdapterInfo, seconds: float) -> None:
        self.load_s[info.adapter_id] = seconds
