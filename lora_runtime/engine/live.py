"""The requests that have not ended, and their ends: what they hold is given back whatever raises."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..adapters.store.store import AdapterStore
from ..grammars.masks import MaskThreads
from ..requests.handle import RequestHandle
from ..requests.sequence import LiveRequest, Sequence
from ..scheduling.limits import Limits
from ..scheduling.scheduler import Scheduler
from .inbox import Inbox
from .observers import Observers

log = logging.getLogger(__name__)


class LiveRequests(dict[RequestHandle, LiveRequest]):
    """Requests by handle, changed by the engine thread alone.

    Nothing that ends one raises: a part that cannot be given back is logged, the others are.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        store: AdapterStore,
        limits: Limits,
        inbox: Inbox,
        observers: Observers,
        masks: MaskThreads,
    ) -> None:
        super().__init__()
        self._scheduler, self._store, self._limits = scheduler, store, limits
        self._inbox, self._observers, self._masks = inbox, observers, masks

    def end(self, live: LiveRequest, error: Exception, outcome: str) -> None:
        """Take an unfinished request out and tell its caller why; one that has ended is only told."""
        if live.handle in self:
            for seq in live.sequences:
                if not seq.finished:
                    self.finish(live, seq)
            self.close(live, outcome)
        anyway(live.handle.fail, error)

    def finish(self, live: LiveRequest, seq: Sequence) -> None:
        seq.finished = True
        if seq.grammar is not None:
            anyway(self._masks.drop, seq.grammar)
        anyway(self._scheduler.finish, seq)
        anyway(self._limits.leave, live.adapter_ids, 1, seq.caller)
        self._inbox.sequence_finished()

    def close(self, live: LiveRequest, outcome: str) -> None:
        """Close a request: everything is freed before the caller hears of the end."""
        if live.versions:
            anyway(self._store.release, live.handle.request.uses, live.versions)
        self.pop(live.handle, None)
        self._inbox.request_finished()
        anyway(lambda: self._observers.notify("on_request_finished", live.record(outcome)))


def anyway(call: Callable[..., object], *args: Any) -> None:
    """Call, and go on if it raises: for what must not keep the engine thread from the next request."""
    try:
        call(*args)
    except BaseException:
        log.exception("the engine goes on after a failure")
