"""Stages for test_lease.py: that answer, hang, crash, raise and lack something."""

from __future__ import annotations

from benchmarks.gpu.session.context import Context, Unavailable


def two_rows(context: Context) -> None:
    """Rows `one` and `two`, of which those that an earlier lease left are not made again."""
    for name in ("one", "two"):
        if not context.has(name):
            context.emit(name, value=1.5)


def nothing_there(context: Context) -> None:
    raise Unavailable("no such thing was carried")
