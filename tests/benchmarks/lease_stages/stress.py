from __future__ import annotations

import os

from benchmarks.gpu.session.context import Context
from lora_runtime.kernels import prefill_tiles

from . import crashing


def run(context: Context) -> None:
    """Wrong with the tiles that are the default, as a compiler might make them; looks at a case
    once, as the real one does."""
    context.emit("tiles", kind=prefill_tiles.KIND)
    if os.environ["TEST_STRESS"] == "crash" and prefill_tiles.KIND != "mma":
        crashing.crash()
    if not context.has("case"):
        context.emit("case", good=prefill_tiles.KIND == "mma")
