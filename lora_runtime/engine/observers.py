"""Delivery of engine events to observers; a broken observer is logged and never hurts a request."""

from __future__ import annotations

import logging
from typing import Any

from ..api.reports import EngineObserver

log = logging.getLogger(__name__)


class Observers:
    """A list of observers, called in the order they were added."""

    def __init__(self) -> None:
        self._all: tuple[EngineObserver, ...] = ()

    def add(self, observer: EngineObserver) -> None:
        self._all = (*self._all, observer)

    def notify(self, method: str, *args: Any) -> None:
        for observer in self._all:
            try:
                getattr(observer, method)(*args)
            except Exception:
                log.exception("observer %r failed in %s", observer, method)
