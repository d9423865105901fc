from __future__ import annotations

from benchmarks.gpu.session.context import Context

from . import two_rows


def run(context: Context) -> None:
    two_rows(context)
    raise RuntimeError("this is told")
