from __future__ import annotations

import ctypes
import faulthandler

from benchmarks.gpu.session.context import Context

from . import two_rows


def run(context: Context) -> None:
    two_rows(context)
    crash()


def crash() -> None:
    """As an illegal read does: no handler writes of it."""
    faulthandler.disable()
    ctypes.string_at(0)
