"""The engine thread: takes in requests, steps, delivers tokens, and ends what has ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Seq

from ..adapters.store.store import AdapterStore
from ..adapters.store.version import AdapterVersion
from ..api.answers import AdapterUse
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
    described,
)
from ..grammars.masks import MASK_S, MaskThreads
from ..grammars.schemas import refusal
from ..requests.sequence import LiveRequest, Sequence
from ..requests.wakeups import Wakeups
from ..sampling.accept import accept_token
from ..sampling.sampling import Sampled
from ..scheduling.batch import ScheduledRow
from ..scheduling.fairness import OUTPUT_COST
from ..scheduling.limits import Limits
from ..scheduling.scheduler import Scheduler
from .compute import Computed, StepComputer
from .inbox import Arrivals, Inbox
from .live import LiveRequests, anyway
from .observers import Observers
from .turn import Turn

log = logging.getLogger(__name__)
_BLOCKED_POLL_S = 0.05
"""Seconds between looks at deadlines while every request waits for its adapter."""
_SCHEDULE_TRIES = 3
"""Times that scheduling may raise, for no one sequence, before the engine fails."""


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
        masks: MaskThreads,
    ) -> None:
        self.inbox, self.scheduler = inbox, scheduler
        self.steps = 0
        self.turn = Turn()
        self._store, self._limits, self._observers = store, limits, observers
        self._masks = masks
        self._computer = StepComputer(base, scheduler, runner, masks)
        self._live = LiveRequests(scheduler, store, limits, inbox, observers, masks)
        self._wakeups = Wakeups()
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
            anyway(live.handle.fail, error)

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
            anyway(self.scheduler.allocator.forget, version.version)
        for adapter_id in mail.unloaded:
            anyway(self.scheduler.waiting.forget, adapter_id)
        for live in mail.requests:
            self._enter(live)
        for handle in mail.cancelled & self._live.keys():
            self._live.end(
                self._live[handle], RequestCancelledError("the request was cancelled"), "cancelled"
            )
        now = time.monotonic()
        for live in [
            v for v in self._live.values() if v.deadline is not None and v.deadline <= now
        ]:
            self._live.end(
                live, RequestTimeoutError("the request's deadline has passed"), "timeout"
            )
        for grammar in self._masks.overdue():
            for live in [v for v in self._live.values() if grammar in v.grammars]:
                told = refusal(f"what may come next takes longer than {MASK_S:g} s to find")
                self._live.end(live, told, "error")
        for versions, error in mail.failed:
            for live in [
                v for v in self._live.values() if v.waits and set(versions) <= set(v.versions)
            ]:
                self._live.end(live, _named(error, live, versions), "error")

    def _enter(self, live: LiveRequest) -> None:
        """Queue a request, unless its adapter went out of service on its way here."""
        for version in live.versions:
            if version.fault:
                self._live.end(live, _named(version.unavailable(), live, [version]), "error")
                return
        try:
            for seq in live.sequences:
                self.scheduler.add(seq)
        except BaseException as error:
            self._fail(live, "cannot be queued", error)

    def _step(self) -> bool:
        """Run one step; False if no request can run."""
        started = time.monotonic()
        rows = self._schedule()
        if not rows:
            return False
        self.turn.runs(rows)
        computed = self._computer.compute(rows)
        # No weights are held any more when callers hear of it.
        for version, error in computed.faults.items():
            self._take_out(version, error)
        for seq, error in computed.failed:
            if (live := self._live.get(seq.handle)) is not None:
                self._fail(live, "cannot be computed", error)
        for seq, sampled in computed.sampled:
            self._deliver(seq, sampled)
        anyway(self._wakeups.send)
        advanced = [s.grammar for s, _ in computed.sampled if s.grammar and not s.grammar.is_ready]
        if advanced:
            self._masks.start(advanced)
        self.steps += 1
        anyway(self._report_step, rows, computed, time.monotonic() - started)
        return True

    def _schedule(self) -> list[ScheduledRow]:
        """The next step's rows; a sequence that cannot be scheduled ends its request."""
        unexplained = 0
        while True:
            try:
                return self.scheduler.schedule()
            except BaseException as error:
                seq = self.scheduler.considered
                live = None if seq is None else self._live.get(seq.handle)
                if live is not None:
                    self._fail(live, "cannot be scheduled", error)
                    continue
                unexplained += 1
                if unexplained == _SCHEDULE_TRIES:
                    raise
                log.exception("scheduling raised, for no one sequence")

    def _take_out(self, version: AdapterVersion, error: BaseException) -> None:
        """Take an adapter out of service, and end all of its requests."""
        reason = f"steps with it fail: {described(error)}"
        log.error("adapter %s is out of service: %s", version.adapter_id, reason, exc_info=error)
        anyway(self._store.take_out, version, reason)
        for live in [v for v in self._live.values() if version in v.versions]:
            self._live.end(live, _named(version.unavailable(), live, [version]), "error")
        anyway(self.scheduler.allocator.forget, version.version)

    def _deliver(self, seq: Sequence, sampled: Sampled) -> None:
        live = self._live.get(seq.handle)
        if live is None:  # a sibling choice failed earlier in this very step
            return
        try:
            self._charge(seq, live)
            if sampled.error is not None:
                told = refusal(sampled.error) if sampled.is_refused else None
                self._live.end(live, told or EngineFailedError(sampled.error), "error")
                return
            event = accept_token(seq, sampled)
            if seq.grammar is not None and event.finish_reason is None:
                seq.grammar.advance(sampled.token_id)
            if event.finish_reason is not None:
                self._live.finish(live, seq)
                if all(s.finished for s in live.sequences):
                    self._live.close(live, "ok")
            seq.handle.push(event, self._wakeups)
        except BaseException as error:
            # One request's text must not take the others down.
            self._fail(live, "has output that cannot be decoded or delivered", error)

    def _charge(self, seq: Sequence, live: LiveRequest) -> None:
        self.scheduler.waiting.charge(seq.tenant, OUTPUT_COST, seq.caller)
        self._limits.charge(live.adapter_ids)

    def _fail(self, live: LiveRequest, what: str, error: BaseException) -> None:
        """End a request that something raised for."""
        log.error("request %s %s", live.handle.request_id, what, exc_info=error)
        told = EngineFailedError(f"the request {what}: {described(error)}")
        self._live.end(live, told, "error")

    def _end_all(self, error: LoramuxError, outcome: str) -> None:
        for live in [*self._live.values(), *self.inbox.take_last_requests()]:
            self._live[live.handle] = live
            self._live.end(live, error, outcome)

    def _report_step(self, rows: Seq[ScheduledRow], computed: Computed, seconds: float) -> None:
        running, allocator = len(self.scheduler.running), self.scheduler.allocator
        gaps, first_tokens = _latencies(rows)
        self._observers.notify(
            "on_step",
            StepStats(
                duration_s=seconds,
                tokens=sum(row.count for row in rows),
                sequences=len(rows),
                distinct_adapters=computed.distinct_adapters,
                running=running,
                waiting=max(0, self.inbox.unfinished_sequences - running),
                kv_blocks_used=allocator.num_used,
                kv_blocks_total=allocator.num_blocks,
                token_gaps=gaps,
                generated=len(computed.sampled),
                prefill_tokens=sum(row.count for row in rows if row.count > 1),
                first_tokens=first_tokens,
            ),
        )


def _latencies(
    rows: Seq[ScheduledRow],
) -> tuple[tuple[tuple[str, float], ...], tuple[tuple[tuple[AdapterUse, ...], float], ...]]:
    """Give what StepStats has of these as `token_gaps` and `first_tokens`."""
    gaps, first_tokens = [], []
    for row in rows:
        seq = row.sequence
        if (gap := seq.take_gap()) is not None:
            gaps.append((seq.handle.request_id, gap))
        elif (ttft := seq.take_ttft()) is not None:
            first_tokens.append((seq.handle.adapters, ttft))
    return tuple(gaps), tuple(first_tokens)


def _named(error: Exception, live: LiveRequest, versions: Seq[AdapterVersion]) -> Exception:
    """The error with the id by which the request knows the adapter."""
    if not isinstance(error, AdapterUnavailableError):
        return error
    return error.of(live.adapter_ids[live.versions.index(versions[0])])
