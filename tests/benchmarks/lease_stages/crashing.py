from __future__ import annotations

import ctypes

from benchmarks.gpu.session.context import Context

from . import two_rows


def run(context: Context) -> None:
    two_rows(context)
    ctypes.string_at(0)
