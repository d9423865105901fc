"""Delivery of engine events to observers; a broken observer is logged and never hurts a request."""

from __future__ import annotations

import logging
import threading
from typing import Any

from ..api.reports import EngineObserver
from ..errors import ends_thread

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
            except BaseException as error:
                if ends_thread(error) and threading.current_thread() is threading.main_thread():
                    raise  # somebody's Ctrl-C
                log.exception("observer %r failed in %s", type(observer).__name__, method)
