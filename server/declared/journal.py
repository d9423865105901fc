"""Lines of the log about declared adapters: one for each change, none at a look that finds none."""

from __future__ import annotations

import logging

import structlog

from .entry import Entry
from .types import DeclaredState

log = structlog.get_logger("loramux.server")
_LEVELS = {
    DeclaredState.PENDING: logging.INFO,
    DeclaredState.LOADING: logging.DEBUG,
    DeclaredState.READY: logging.INFO,
    DeclaredState.FAILED: logging.WARNING,
    DeclaredState.REMOVING: logging.DEBUG,
}


def note(entry: Entry) -> None:
    """Write a line if there is news of the entry."""
    news = entry.news()
    if news is None:
        return
    fields = {"source": news.source, "version": news.version[:12], "error": news.error}
    log.log(
        _LEVELS[news.state],
        f"declared adapter {news.state}",
        adapter=news.name,
        **{name: value for name, value in fields.items() if value},
    )


def note_gone(name: str) -> None:
    """Write that it is no longer declared, and that nothing of it is left."""
    log.info("declared adapter gone", adapter=name)
