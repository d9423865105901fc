"""The engine thread: takes in requests, steps, delivers tokens, and ends what has ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Seq

from ..adapters.store.store import AdapterStore
from ..adapters.store.version import AdapterVersion
from ..api.reports import StepStats
from ..backends.backend import ModelRunner
from ..base_model import BaseModel
from ..errors import (
    AdapterUnavailableError,
    EngineFailedError,
    EngineStoppedError,
    LoramuxError,
    RequestCancelledError,
    RequestTimeoutError,
)
from ..requests.handle import RequestHandle
from ..requests.sequence import LiveRequest, Sequence
from ..sampling.accept import accept_token
from ..sampling.sampling import Sampled, sample
from ..scheduling.batch import BatchPlanner, ScheduledRow
from ..scheduling.fairness import OUTPUT_COST
from ..scheduling.limits import Limits
from ..scheduling.scheduler import Scheduler
from .inbox import Arrivals, Inbox
from .observers import Observers
from .turn import Turn

log = logging.getLogger(__name__)
_BLOCKED_POLL_S = 0.05
"""Seconds between looks at deadlines while every request waits for its adapter."""


class EngineLoop:
    """Owner of scheduler, KV blocks and device; everything here runs on the engine thread."""

    def __init__(
        self,
        base: BaseModel,
        inbox: Inbox,
        scheduler: Scheduler,
        runner: ModelRunner,
        store: AdapterStore,
        limits: Limits,
        observers: Observers,
    ) -> None:
        self.inbox, self.scheduler, self.runner = inbox, scheduler, runner
        self.steps = 0
        self.turn = Turn()
        self._base, self._store, self._limits, self._observers = base, store, limits, observers
        self._planner = BatchPlanner(scheduler.allocator.block_size)
        self._live: dict[RequestHandle, LiveRequest] = {}
        self._blocked = False
        """True while requests wait and none of them can run."""

    def run(self) -> None:
        """Run until the inbox is stopped. Every request gets an end, whatever happens."""
        try:
            while (mail := self.inbox.take(self._patience_s())) is not None:
                self.turn.begin()
                self._take_in(mail)
                self._blocked = not self._step()
                self.turn.end()
            self._end_all(EngineStoppedError("the engine was shut down"), "cancelled")
        except BaseException as error:
            log.exception("the engine thread failed")
            self.inbox.fail(error)
            self._observers.notify("on_engine_failed", error)
            self._end_all(EngineFailedError("the engine has failed"), "error")
        finally:
            self.turn.end()

    def abandon(self, error: LoramuxError) -> None:
        """Tell all callers that nothing more comes, on a thread that waits for this one no longer."""
        for live in [*list(self._live.values()), *self.inbox.untaken()]:
            live.handle.fail(error)

    def _patience_s(self) -> float | None:
        if not self._live:
            return None
        return _BLOCKED_POLL_S if self._blocked else 0.0

    def _take_in(self, mail: Arrivals) -> None:
        # First of all: from here on these requests get an end even if something below raises.
        self._live.update((live.handle, live) for live in mail.requests)
        if mail.fatal is not None:
            raise mail.fatal
        for version in mail.forgotten:
            self.scheduler.allocator.forget(version.version)
        for adapter_id in mail.unloaded:
            self.scheduler.waiting.forget(adapter_id)
        for seq in (s for live in mail.requests for s in live.sequences):
            self.scheduler.add(seq)
        for handle in mail.cancelled & self._live.keys():
            self._end(
                self._live[handle], RequestCancelledError("the request was cancelled"), "cancelled"
            )
        now = time.monotonic()
        for live in [
            v for v in self._live.values() if v.deadline is not None and v.deadline <= now
        ]:
            self._end(live, RequestTimeoutError("the request's deadline has passed"), "timeout")
        for versions, error in mail.failed:
            for live in [
                v for v in self._live.values() if v.waits and set(versions) <= set(v.versions)
            ]:
                self._end(live, _named(error, live, versions), "error")

    def _step(self) -> bool:
        """Run one step; False if no request can run."""
        started = time.monotonic()
        rows = self.scheduler.schedule()
        if not rows:
            return False
        self.turn.runs(rows)
        results, distinct = self._compute(rows)
        for seq, sampled in results:
            self._deliver(seq, sampled)
        self.steps += 1
        self._report_step(rows, distinct, time.monotonic() - started)
        return True

    def _compute(self, rows: Seq[ScheduledRow]) -> tuple[list[tuple[Sequence, Sampled]], int]:
        """Compute what was sampled for whom, and of how many adapters; no weights are held any more
        when callers hear of it."""
        batch = self._planner.plan(rows)
        output = self.runner.forward(batch)
        for row in rows:
            row.sequence.num_computed += row.count
            self.scheduler.publish_blocks(row.sequence)
        results: list[tuple[Sequence, Sampled]] = []
        if batch.sampling:
            results = list(
                zip(
                    batch.sampling,
                    sample(output, batch.sampling, self._base.sample_rows),
                    strict=True,
                )
            )
            self._charge(batch.sampling)
        return results, batch.distinct_adapters

    def _charge(self, sequences: Seq[Sequence]) -> None:
        for seq in sequences:
            self.scheduler.waiting.charge(seq.tenant, OUTPUT_COST)
        self._limits.charge(
            [adapter for seq in sequences for adapter in self._live[seq.handle].adapter_ids]
        )

    def _deliver(self, seq: Sequence, sampled: Sampled) -> None:
        live = self._live.get(seq.handle)
        if live is None:  # a sibling choice failed earlier in this very step
            return
        if sampled.error is not None:
            self._end(live, EngineFailedError(sampled.error), "error")
            return
        try:
            event = accept_token(seq, sampled)
        except Exception as error:
            # One request's text must not take the others down.
            log.exception("request %s failed while its output was decoded", seq.handle.request_id)
            self._end(live, EngineFailedError(f"output cannot be decoded: {error}"), "error")
            return
        if event.finish_reason is not None:
            self._finish(live, seq)
            if all(s.finished for s in live.sequences):
                self._close(live, "ok")
        seq.handle.push(event)

    def _end(self, live: LiveRequest, error: Exception, outcome: str) -> None:
        """Take an unfinished request out and tell its caller why."""
        for seq in live.sequences:
            if not seq.finished:
                self._finish(live, seq)
        self._close(live, outcome)
        live.handle.fail(error)

    def _finish(self, live: LiveRequest, seq: Sequence) -> None:
        seq.finished = True
        self.scheduler.finish(seq)
        self._limits.leave(live.adapter_ids, 1)
        self.inbox.sequence_finished()

    def _close(self, live: LiveRequest, outcome: str) -> None:
        """Close a request: everything is freed before the caller hears of the end."""
        if live.versions:
            self._store.release(live.handle.request.uses, live.versions)
        self._live.pop(live.handle, None)
        self.inbox.request_finished()
        self._observers.notify("on_request_finished", live.record(outcome))

    def _end_all(self, error: LoramuxError, outcome: str) -> None:
        for live in [*self._live.values(), *self.inbox.take_last_requests()]:
            self._end(live, error, outcome)

    def _report_step(self, rows: Seq[ScheduledRow], distinct_adapters: int, seconds: float) -> None:
        running, allocator = len(self.scheduler.running), self.scheduler.allocator
        self._observers.notify(
            "on_step",
            StepStats(
                duration_s=seconds,
                tokens=sum(row.count for row in rows),
                sequences=len(rows),
                distinct_adapters=distinct_adapters,
                running=running,
                waiting=max(0, self.inbox.unfinished_sequences - running),
                kv_blocks_used=allocator.num_used,
                kv_blocks_total=allocator.num_blocks,
                token_gaps=tuple(
                    (row.sequence.handle.request_id, gap)
                    for row in rows
                    if (gap := row.sequence.take_gap()) is not None
                ),
            ),
        )


def _named(error: Exception, live: LiveRequest, versions: Seq[AdapterVersion]) -> Exception:
    """The error with the id by which the request knows the adapter."""
    if not isinstance(error, AdapterUnavailableError):
        return error
    return error.of(live.adapter_ids[live.versions.index(versions[0])])
