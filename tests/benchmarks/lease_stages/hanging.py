from __future__ import annotations

import os
import time

from benchmarks.gpu.session.context import Context

from . import two_rows


def run(context: Context) -> None:
    two_rows(context)
    scratch = context.out / ".hangs"
    scratch.write_text(str(os.getpid()))
    scratch.rename(context.out / "hangs")
    time.sleep(60)
