from __future__ import annotations

import os

from benchmarks.gpu.session.context import Context


def run(context: Context) -> None:
    context.emit("machine", device=os.environ.get("TEST_MACHINE", "card A"), interpreter=True)
