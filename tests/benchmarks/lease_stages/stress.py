from __future__ import annotations

from benchmarks.gpu.session.context import Context
from lora_runtime.kernels import prefill_tiles


def run(context: Context) -> None:
    """Wrong with the tiles that are the default, as a compiler might make them."""
    context.emit("tiles", kind=prefill_tiles.KIND, good=prefill_tiles.KIND == "mma")
